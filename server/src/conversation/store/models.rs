//! Models in the store.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::any::AnyRow;
use utoipa::ToSchema;

use super::{Store, StoreError, from_micros, on_delete, on_write, returned_row, to_micros, within, word, words};
use crate::conversation::cost::Price;
use crate::providers::Provider;

words! {
    /// Whether new conversations may choose a model.
    ModelStatus {
        /// New conversations may choose the model.
        Active = "active",
        /// New conversations may not choose the model; existing ones keep it.
        Deprecated = "deprecated",
    }
}

/// A model that conversations may use.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = ModelFields)]
pub struct Model {
    /// Id of the model, chosen by the client that created it.
    pub model_id: String,
    /// Name of the model for display.
    pub display_name: String,
    /// Who serves the model.
    #[serde(default)]
    #[schema(required = true)]
    pub provider: Provider,
    /// Id of the model at its provider; at Bedrock, of a model or an inference profile.
    // Journals of earlier versions have the older name.
    #[serde(alias = "bedrock_model_id")]
    pub provider_model_id: String,
    /// AWS region in which a model is called at Bedrock; absent for the server's `AWS_REGION`.
    pub model_region: Option<String>,
    /// Size of the model's context window, in tokens.
    pub context_window: i64,
    /// Largest number of output tokens of one answer.
    pub max_output_tokens: i64,
    /// Price in USD per 1,000 input tokens; only operators see it.
    #[schema(required = false)]
    pub input_token_price: Price,
    /// Price in USD per 1,000 output tokens; only operators see it.
    #[schema(required = false)]
    pub output_token_price: Price,
    /// Whether new conversations may choose the model.
    pub status: ModelStatus,
    /// Time when the model was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The fields of a new model, as in [`Model`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "each field is documented in Model")]
pub struct NewModel {
    pub model_id: String,
    pub display_name: String,
    pub provider: Provider,
    pub provider_model_id: String,
    pub model_region: Option<String>,
    pub context_window: i64,
    pub max_output_tokens: i64,
    pub input_token_price: Price,
    pub output_token_price: Price,
}

/// A change of a model; fields that are `None` stay, but for the region of a model that leaves Bedrock. Fields as in [`Model`].
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "each field is documented in Model")]
pub struct ModelChange {
    pub display_name: Option<String>,
    pub provider: Option<Provider>,
    pub provider_model_id: Option<String>,
    pub model_region: Option<String>,
    pub context_window: Option<i64>,
    pub max_output_tokens: Option<i64>,
    pub input_token_price: Option<Price>,
    pub output_token_price: Option<Price>,
    pub status: Option<ModelStatus>,
}

fn read(row: &AnyRow) -> sqlx::Result<Model> {
    let price = |column| {
        let text: String = row.try_get(column)?;
        text.parse::<Price>().map_err(|error| sqlx::Error::Decode(error.into()))
    };
    Ok(Model {
        model_id: row.try_get("model_id")?,
        display_name: row.try_get("display_name")?,
        provider: word(row.try_get("provider")?, Provider::from_text)?,
        provider_model_id: row.try_get("bedrock_model_id")?,
        model_region: row.try_get("model_region")?,
        context_window: row.try_get("context_window")?,
        max_output_tokens: row.try_get("max_output_tokens")?,
        input_token_price: price("input_token_price")?,
        output_token_price: price("output_token_price")?,
        status: word(row.try_get("status")?, ModelStatus::from_text)?,
        created_at: from_micros(row.try_get("created_at")?)?,
        updated_at: from_micros(row.try_get("updated_at")?)?,
    })
}

impl Store {
    /// Creates a model.
    ///
    /// # Errors
    /// A model with this id exists already.
    pub async fn create_model(&self, new: NewModel) -> Result<Model, StoreError> {
        within(async {
            let statement = sqlx::query(
                "INSERT INTO models (model_id, display_name, bedrock_model_id, model_region, context_window,
                        max_output_tokens, input_token_price, output_token_price, status, created_at, updated_at, provider)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'active', $9, $9, $10) RETURNING *",
            )
            .bind(&new.model_id)
            .bind(new.display_name)
            .bind(new.provider_model_id)
            .bind(new.model_region)
            .bind(new.context_window)
            .bind(new.max_output_tokens)
            .bind(String::from(new.input_token_price))
            .bind(String::from(new.output_token_price))
            .bind(to_micros(Timestamp::now()))
            .bind(new.provider.as_str());
            let row = returned_row(statement, &self.0)
                .await
                .map_err(|e| on_write(e, || format!("model {} exists already", new.model_id), "model"))?;
            Ok(read(&row.ok_or(sqlx::Error::RowNotFound)?)?)
        })
        .await
    }

    /// All models, sorted by id.
    ///
    /// # Errors
    /// The database failed.
    pub async fn models(&self) -> Result<Vec<Model>, StoreError> {
        within(async {
            let rows = sqlx::query("SELECT * FROM models ORDER BY model_id").fetch_all(&self.0).await?;
            Ok(rows.iter().map(read).collect::<sqlx::Result<_>>()?)
        })
        .await
    }

    /// The model with this id.
    ///
    /// # Errors
    /// There is no model with this id.
    pub async fn model(&self, id: &str) -> Result<Model, StoreError> {
        within(async {
            let row = sqlx::query("SELECT * FROM models WHERE model_id = $1").bind(id).fetch_optional(&self.0).await?;
            Ok(read(&row.ok_or(StoreError::NotFound("model"))?)?)
        })
        .await
    }

    /// Changes a model.
    ///
    /// # Errors
    /// There is no model with this id.
    pub async fn update_model(&self, id: &str, change: ModelChange) -> Result<Model, StoreError> {
        within(async {
            let statement = sqlx::query(
                "UPDATE models SET display_name = COALESCE($2, display_name),
                        bedrock_model_id = COALESCE($3, bedrock_model_id),
                        model_region = CASE WHEN COALESCE($11, provider) = 'bedrock' THEN COALESCE($4, model_region) END,
                        context_window = COALESCE($5, context_window),
                        max_output_tokens = COALESCE($6, max_output_tokens),
                        input_token_price = COALESCE($7, input_token_price),
                        output_token_price = COALESCE($8, output_token_price),
                        status = COALESCE($9, status), updated_at = $10, provider = COALESCE($11, provider)
                 WHERE model_id = $1 RETURNING *",
            )
            .bind(id)
            .bind(change.display_name)
            .bind(change.provider_model_id)
            .bind(change.model_region)
            .bind(change.context_window)
            .bind(change.max_output_tokens)
            .bind(change.input_token_price.map(String::from))
            .bind(change.output_token_price.map(String::from))
            .bind(change.status.map(ModelStatus::as_str))
            .bind(to_micros(Timestamp::now()))
            .bind(change.provider.map(Provider::as_str));
            let row = returned_row(statement, &self.0).await?;
            Ok(read(&row.ok_or(StoreError::NotFound("model"))?)?)
        })
        .await
    }

    /// Deletes a model that neither tenants nor conversations use.
    ///
    /// # Errors
    /// There is no model with this id, or tenants or conversations use it.
    pub async fn delete_model(&self, id: &str) -> Result<(), StoreError> {
        within(async {
            let done =
                sqlx::query("DELETE FROM models WHERE model_id = $1").bind(id).execute(&self.0).await.map_err(|e| {
                    on_delete(e, "tenants or conversations use the model; set its status to deprecated instead")
                })?;
            if done.rows_affected() == 0 { Err(StoreError::NotFound("model")) } else { Ok(()) }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_model_in_the_journal_of_an_earlier_version_is_at_bedrock() {
        let mut model = json!({
            "model_id": "m", "display_name": "M", "bedrock_model_id": "b", "model_region": null, "context_window": 1,
            "max_output_tokens": 1, "input_token_price": "0", "output_token_price": "0", "status": "active",
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        });
        let read: Model = serde_json::from_value(model.clone()).expect("an older journal's");
        assert_eq!((read.provider, read.provider_model_id.as_str()), (Provider::Bedrock, "b"));
        model = serde_json::to_value(&read).expect("JSON");
        assert_eq!((&model["provider"], &model["provider_model_id"]), (&json!("bedrock"), &json!("b")));
        serde_json::from_value::<Model>(model).expect("its own");
    }
}
