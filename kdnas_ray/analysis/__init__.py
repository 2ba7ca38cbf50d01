"""What do the results of a search say, and how far can they be trusted?"""
