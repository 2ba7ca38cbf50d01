"""How one candidate is trained: tasks, teachers, the knowledge bank, recipes, losses and the loop."""
