"""The pytest plugin: options, the fixture `peft_regress`, progress, the verdict at the end."""
