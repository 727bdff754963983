"""What a report says, as data and sentences, however it is shown."""
