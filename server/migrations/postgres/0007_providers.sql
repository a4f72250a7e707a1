-- Who serves a model: bedrock, or anthropic (the Messages API). bedrock_model_id is the model's id at its provider, whichever that is:
-- servers of the version before this one, which may still be running beside it, know the column by this name.
ALTER TABLE models ADD COLUMN provider TEXT NOT NULL DEFAULT 'bedrock';
