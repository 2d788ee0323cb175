"""The names of the files that train_adapter writes and other stages read."""

TRAINING_FILE = "training.json"  # first and last loss, steps, tokens, memory, how it ran
GATE_FILE = "gate.json"  # whether the hard canaries passed, and all canaries
LOG_FILE = "train_log.jsonl"  # a line per logged step and per validation
RANGE_TEST_FILE = "range_test.json"  # of smoke, with train.learning_rate find: the curve, and the rate chosen from it
