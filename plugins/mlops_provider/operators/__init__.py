"""One operator per lifecycle step; each reads its fields, calls one function of ``steps``, returns a reference."""
