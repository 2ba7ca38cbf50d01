"""Which losses have weights or a memory of their own? Trained beside the student, dropped afterwards.

Each is a module made from a `Setting` and called like every loss: `(student, teacher, labels, temperature) -> scalar`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.losses.base import Answer, Projector, Setting, check_shapes, same_resolution

EPSILON = 1e-5


class Variational(nn.Module):
    """Negative log likelihood of the teacher's feature under a Gaussian that the student predicts; scalar.

    `mean((t - s)^2 / (2 v_c) + log(v_c) / 2)`, with a learned variance `v_c = softplus(a_c) + 1e-5` a channel,
    5 at first: channels that the student cannot predict count less. May be negative.

    Source: Ahn 2019, Variational Information Distillation for Knowledge Transfer, eqs. 5 and 6.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.spread = nn.Parameter(torch.full((setting.teacher[0][0],), math.log(math.expm1(5.0 - EPSILON))))

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: features `[batch, C, h, w]` or `[batch, C]`, the student's already projected to the teacher's C."""
        check_shapes(student.feature, teacher.feature)
        mean, target = student.feature, teacher.feature.detach()
        variance = F.softplus(self.spread) + EPSILON
        variance = variance.view(1, -1, *[1] * (mean.dim() - 2))
        return ((target - mean).square() / (2 * variance) + variance.log() / 2).mean()


class MaskedGeneration(nn.Module):
    """Squared error of the teacher's map, generated from the student's map with half of its places hidden; scalar.

    `mean((g(s * mask) - t)^2)` with g two 3x3 convolutions and a ReLU between them, mask drawn anew each
    step.

    Source: Yang 2022, Masked Generative Distillation, eqs. 3 to 5 (share hidden 0.5).
    """

    hidden = 0.5

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        channels = setting.teacher[0][0]
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: maps `[batch, C, h, w]`, the student's already projected to the teacher's C."""
        check_shapes(student.feature, teacher.feature)
        same_resolution(student.feature, teacher.feature)
        shown = torch.rand_like(student.feature[:, :1]) > self.hidden
        return F.mse_loss(self.generate(student.feature * shown), teacher.feature.detach())


class FactorTransfer(nn.Module):
    """Distance between factors: a code of the teacher's map, and the student's translation into that code; scalar.

    `mean|u(f_t) - u(f_s)|` with u to length 1, plus the squared error of the decoder that keeps `f_t` a code of the
    map (divided by the usual weight, 200, so that it counts once). The paper trains the code first; here it is
    trained beside the student, and the student's error does not move it.

    Source: Kim 2018, Paraphrasing Complex Network: Network Compression via Factor Transfer, eqs. 1 to 3 (rate 0.5).
    """

    rate, usual_weight = 0.5, 200.0

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        channels, factor = setting.teacher[0][0], max(1, int(setting.teacher[0][0] * self.rate))
        self.encode = nn.Sequential(nn.Conv2d(channels, factor, 3, padding=1), nn.LeakyReLU(0.1))
        self.decode = nn.Conv2d(factor, channels, 3, padding=1)
        self.translate = nn.Sequential(nn.Conv2d(setting.student[0][0], factor, 3, padding=1), nn.LeakyReLU(0.1))

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: features are maps `[batch, c, h, w]`."""
        s, t = same_resolution(student.feature, teacher.feature.detach())
        code = self.encode(t)
        rebuilt = F.mse_loss(self.decode(code), t)
        a, b = (F.normalize(x.flatten(1), dim=1) for x in (self.translate(s), code.detach()))
        return F.l1_loss(a, b) + rebuilt / self.usual_weight


class Contrastive(nn.Module):
    """Tells, in a shared space, the teacher's view of this sample from its views of many others, and back; scalar.

    `-log(h(s_i, t_i)) - sum_j log(1 - h(s_i, t_j))` in both directions, with `h(a, b) = e / (e + M / N)`,
    `e = exp(a . b / 0.07) / Z`, M others drawn for the whole batch from a memory of all N samples that moves with
    momentum 0.5, Z set by the first batch. Others known to be of the same class are left out. Embeddings are linear, of
    length 1.

    Source: Tian 2020, Contrastive Representation Distillation, eqs. 17 to 19 (128 dimensions; 16,384 others there,
    at most 512 here: its data set is 50 to 1,000 times larger).
    """

    dimensions, heat, momentum, others = 128, 0.07, 0.5, 512

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.embed_student, self.embed_teacher = (
            nn.Linear(math.prod(shape[0]), self.dimensions) for shape in (setting.student, setting.teacher)
        )
        memory = F.normalize(torch.rand(2, setting.samples, self.dimensions) - 0.5, dim=2)
        self.memory: Tensor
        self.classes: Tensor
        self.scale: Tensor
        self.register_buffer("memory", memory)
        self.register_buffer("classes", torch.full((setting.samples,), -1))
        self.register_buffer("scale", torch.zeros(2))

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: features `[batch, …]`, flattened; `student.samples` `[batch]` is needed."""
        s = F.normalize(self.embed_student(student.feature.flatten(1)), dim=1)
        t = F.normalize(self.embed_teacher(teacher.feature.detach().flatten(1)), dim=1)
        samples = student.samples
        if samples is None:
            raise ValueError("the loss remembers samples: it needs their positions in the training data")
        size = len(self.classes)
        drawn = torch.randint(size, (min(self.others, size),), device=s.device)
        valid = (self.classes[drawn] != labels[:, None]) & (drawn != samples[:, None])
        loss = self._nce(s, 1, samples, drawn, valid) + self._nce(t, 0, samples, drawn, valid)
        with torch.no_grad():
            for side, fresh in enumerate((s, t)):
                old = self.memory[side, samples]
                self.memory[side, samples] = F.normalize(self.momentum * old + (1 - self.momentum) * fresh, dim=1)
            self.classes[samples] = labels
        return loss

    def _nce(self, own: Tensor, other: int, samples: Tensor, drawn: Tensor, valid: Tensor) -> Tensor:
        memory = self.memory[other]
        positive = ((own * memory[samples]).sum(dim=1) / self.heat).exp()
        negative = (own @ memory[drawn].T / self.heat).exp()
        if self.scale[other] == 0:
            self.scale[other] = negative.mean().detach() * len(memory)
        noise, scale = len(drawn) / len(memory), self.scale[other].clone()
        e_positive, e_negative = positive / scale, negative / scale
        missed = -(e_positive / (e_positive + noise)).log()
        confused = -(noise / (e_negative + noise)).log() * valid
        return (missed + confused.sum(dim=1)).mean()


class SharedSpace(nn.Module):
    """Brings features of one class together in a shared space, whichever of the two models they are of; scalar.

    `mean_i -1/|P(i)| sum_{p in P(i)} log(exp(s_i . t_p / 0.1) / sum_a exp(s_i . t_a / 0.1))` with `P(i)` the batch's
    samples of the class of i, plus the same with s and t exchanged, halved. Embeddings s and t are learned linear maps
    into one space, of length 1; unlike `contrastive` it needs no pair of the same sample, so it suits a teacher that
    saw others (`paired`).

    Source: Khosla 2020, Supervised Contrastive Learning, eq. 2 (temperature 0.1, 128 dimensions); anchors and contrasts
    of two modalities in both directions as in Radford 2021, Learning Transferable Visual Models From Natural Language
    Supervision, section 2.3.
    """

    dimensions, heat = 128, 0.1

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.embed_student, self.embed_teacher = (
            nn.Linear(math.prod(shape[0]), self.dimensions) for shape in (setting.student, setting.teacher)
        )

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: features `[batch, …]`, flattened; labels `[batch]`."""
        s = F.normalize(self.embed_student(student.feature.flatten(1)), dim=1)
        t = F.normalize(self.embed_teacher(teacher.feature.detach().flatten(1)), dim=1)
        same = (labels[:, None] == labels[None]).to(s.dtype)
        same = same / same.sum(dim=1, keepdim=True)
        near = s @ t.T / self.heat
        both = torch.stack([F.log_softmax(x, dim=1) for x in (near, near.T)])
        return -(same * both).sum(dim=2).mean()


class FlowMatrices(nn.Module):
    """Squared difference of the flow from each stage to the next: inner products of their channels; scalar.

    `mean(|G(s_i, s_i+1) - G(t_j, t_j+1)|^2)` over consecutive stages, `G(a, b) = a^T b / (h w)` after averaging the
    larger map to the smaller; the student's channels are mapped to the teacher's by 1x1 convolutions. Each G is scaled
    to length 1: as published it grows with the square of the activations, the loss with their fourth power, and
    two of a hundred searched candidates diverged.

    Source: Yim 2017, A Gift from Knowledge Distillation, eqs. 1 and 2.
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.partner = by_depth(len(setting.student), len(setting.teacher))
        self.project = nn.ModuleList(
            nn.Conv2d(shape[0], setting.teacher[there][0], 1)
            for shape, there in zip(setting.student, self.partner, strict=True)
        )

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: `features` are maps `[batch, c, h, w]`, two at least."""
        mapped = [project(x) for project, x in zip(self.project, student.features, strict=True)]
        matched = [teacher.features[there].detach() for there in self.partner]
        pairs = [(_flow(*mapped[i : i + 2]), _flow(*matched[i : i + 2])) for i in range(len(mapped) - 1)]
        return torch.stack([(own - theirs).square().sum(dim=1).mean() for own, theirs in pairs]).mean()


class Review(nn.Module):
    """Squared error of every teacher stage, from the student's stage fused with all deeper ones; scalar.

    From the deepest stage to the first, an attention over places mixes the student's stage with what came before;
    the result is compared with the teacher's stage at full size and averaged to 4, 2 and 1 places a side (where that
    is smaller), with weights 1, 1/2, 1/4, 1/8 divided by their sum. Stages meet in as many channels as the student's
    widest has, 8 at least (512 for every student in the paper).

    Source: Chen 2021, Distilling Knowledge via Knowledge Review, eq. 6, figure 4 (fusion) and figure 5 (HCL).
    """

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.partner = by_depth(len(setting.student), len(setting.teacher))
        middle = max(8, *(shape[0] for shape in setting.student))
        self.enter = nn.ModuleList(nn.Conv2d(shape[0], middle, 1) for shape in setting.student)
        self.attend = nn.ModuleList(nn.Conv2d(2 * middle, 2, 1) for _ in setting.student[1:])
        self.leave = nn.ModuleList(nn.Conv2d(middle, setting.teacher[there][0], 3, padding=1) for there in self.partner)

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: `features` are maps `[batch, c, h, w]`."""
        fused: Tensor | None = None
        total = student.logits.new_zeros(())
        for stage in reversed(range(len(self.enter))):
            x = self.enter[stage](student.features[stage])
            if fused is not None:
                fused = F.interpolate(fused, size=x.shape[2:])
                z = torch.sigmoid(self.attend[stage](torch.cat([x, fused], dim=1)))
                x = x * z[:, :1] + fused * z[:, 1:]
            fused = x
            total = total + _by_levels(self.leave[stage](x), teacher.features[self.partner[stage]].detach())
        return total


class CrossLayer(nn.Module):
    """Squared error over all pairs of student and teacher stages, each pair weighed by learned attention; scalar.

    `sum_j a_ij mean((projector_ij(s_i) - t_j)^2)`, mean over student stages i and the batch; `a_ij` is the softmax over
    the teacher's stages j of a query of `s_i` times a key of `t_j`, sample by sample. Query and key see the features
    averaged over places (the paper: their similarities within a batch, which ties the weights to its size).

    Source: Chen 2021, Cross-Layer Distillation with Semantic Calibration, eqs. 4 to 7.
    """

    width = 32

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.query = nn.ModuleList(nn.Linear(shape[0], self.width) for shape in setting.student)
        self.key = nn.ModuleList(nn.Linear(shape[0], self.width) for shape in setting.teacher)
        self.projectors = nn.ModuleList(
            Projector(shape, other) for shape in setting.student for other in setting.teacher
        )

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: `features` are maps `[batch, c, h, w]`."""
        targets = [feature.detach() for feature in teacher.features]
        keys = torch.stack([key(t.mean(dim=(2, 3))) for key, t in zip(self.key, targets, strict=True)], dim=1)
        rows = []
        projectors = iter(self.projectors)
        for query, s in zip(self.query, student.features, strict=True):
            scores = keys @ query(s.mean(dim=(2, 3)))[:, :, None] / math.sqrt(self.width)
            errors = []
            for t in targets:
                a, b = next(projectors)(s, t)
                errors.append((a - b).square().flatten(1).mean(dim=1))
            rows.append((scores.squeeze(2).softmax(dim=1) * torch.stack(errors, dim=1)).sum(dim=1))
        return torch.stack(rows).mean()


class ClassSimilarity(nn.Module):
    """KD from the mean softened answer to the sample's class: which classes are alike, not which sample; scalar.

    `T^2 KL(m_y || softmax(s / T))` with `m_k` the moving mean (momentum 0.9) of the teacher's softened outputs for
    samples of class k.

    Source: Zhang 2021, Delving Deep into Label Smoothing, eq. 5 (online label smoothing), with the teacher's answers.
    """

    momentum = 0.9

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", torch.zeros(setting.classes, setting.classes))

    def forward(self, student: Answer, teacher: Answer, labels: Tensor, temperature: float) -> Tensor:
        """The loss: logits `[batch, classes]`, labels `[batch]`."""
        check_shapes(student.logits, teacher.logits)
        soft = F.softmax(teacher.logits.detach() / temperature, dim=1)
        with torch.no_grad():
            onehot = F.one_hot(labels, len(self.means)).to(soft.dtype)
            counts = onehot.sum(dim=0)[:, None]
            fresh = (onehot.T @ soft) / counts.clamp_min(1)
            known = self.means.sum(dim=1, keepdim=True) > 0
            moved = torch.where(known, self.momentum * self.means + (1 - self.momentum) * fresh, fresh)
            self.means.copy_(torch.where(counts > 0, moved, self.means))
        targets = self.means[labels].clamp_min(1e-12).to(soft.dtype)
        return (
            F.kl_div(F.log_softmax(student.logits / temperature, dim=1), targets, reduction="batchmean")
            * temperature**2
        )


def by_depth(count: int, others: int) -> tuple[int, ...]:
    """For each of `count` layers the one of `others` at the same relative depth; first meets first, last meets last."""
    return tuple(round(i * (others - 1) / max(count - 1, 1)) if count > 1 else others - 1 for i in range(count))


def _flow(a: Tensor, b: Tensor) -> Tensor:
    a, b = same_resolution(a, b)
    return F.normalize((a.flatten(2) @ b.flatten(2).transpose(1, 2) / a[0, 0].numel()).flatten(1), eps=1e-6)


def _by_levels(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_resolution(student, teacher)
    total, weights, weight = F.mse_loss(student, teacher), 1.0, 1.0
    for side in (4, 2, 1):
        if side >= min(student.shape[2:]):
            continue
        weight /= 2
        a, b = (F.adaptive_avg_pool2d(x, side) for x in (student, teacher))
        total, weights = total + weight * F.mse_loss(a, b), weights + weight
    return total / weights
