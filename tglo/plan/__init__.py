"""What a run needs of the hardware, computed without it: memory, arithmetic, communication."""
