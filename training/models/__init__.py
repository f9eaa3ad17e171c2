"""TODO-models"""
