"""What every test here begins with."""

from training_fixtures import global_random_state_untouched, one_thread, runtime, task, toy

__all__ = ["global_random_state_untouched", "one_thread", "runtime", "task", "toy"]
