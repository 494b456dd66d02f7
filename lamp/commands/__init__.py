"""The commands of `lamp`, one a module, and what they have in common: options, inputs, outputs."""
