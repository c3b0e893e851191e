"""What the Batches API says, as values; knows neither OpenTelemetry nor an SDK."""
