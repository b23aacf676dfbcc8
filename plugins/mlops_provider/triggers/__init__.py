"""What a deferred task waits for, in the triggerer."""
