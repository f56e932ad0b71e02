"""What this machine is: the devices that torch can drive, cores, memory."""
