import logging

# Warnings are part of what these tests provoke.
logging.disable(logging.WARNING)
