"""Losses: functions of tensors, each with the paper and equation it comes from."""
