"""What locate-then-edit methods share: where a subject is read, and what is to be found there."""
