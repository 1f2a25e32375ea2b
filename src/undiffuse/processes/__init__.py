"""The processes of one command: who am I, who decides, who holds a folder, what a signal does."""
