"""What does a network cost on a piece of hardware?"""
