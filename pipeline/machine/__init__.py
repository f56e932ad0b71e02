"""What this machine is: the cards that it has, what torch can drive of them, cores, memory, and what follows."""
