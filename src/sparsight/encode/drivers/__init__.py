"""Who does which part: this process, the devices of this machine, or the machines of a Ray cluster."""
