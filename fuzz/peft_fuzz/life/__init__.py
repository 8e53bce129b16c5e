"""Carry out the acts of a life on a model, beside a simulation of what must hold."""
