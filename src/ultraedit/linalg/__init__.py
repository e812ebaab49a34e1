"""The linear algebra of edits: pure functions of tensors."""
