"""What the methods share that take tokens out for good: who leaves when, and the block without them."""
