//! The JSON Schema of the frontmatter, from the types that read it: for editors, and for who writes manifests by program.

use super::{AgentFields, BottleFields};
use clap::ValueEnum;
use schemars::{
    JsonSchema, Schema,
    generate::SchemaSettings,
    transform::{Transform, transform_subschemas},
};
use serde_json::Value;

/// The kinds of file that a manifest has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// An agent's
    Agent,
    /// A bottle's
    Bottle,
}

/// The schema of one kind of file, draft 2020-12.
pub fn schema(kind: Kind) -> Schema {
    fn of<T: JsonSchema>() -> Schema {
        SchemaSettings::draft2020_12().with_transform(NoNull).into_generator().into_root_schema_for::<T>()
    }
    match kind {
        Kind::Agent => of::<AgentFields>(),
        Kind::Bottle => of::<BottleFields>(),
    }
}

/// A key without a value is a mistake, not the same as no key: `null` is never valid. schemars adds it to each `Option`.
#[derive(Clone)]
struct NoNull;

impl Transform for NoNull {
    fn transform(&mut self, schema: &mut Schema) {
        transform_subschemas(self, schema);
        let Some(object) = schema.as_object_mut() else { return };
        object.remove("default");
        if let Some(Value::Array(types)) = object.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [one] = types.as_slice() {
                let one = one.clone();
                object.insert("type".into(), one);
            }
        }
        if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
            choices.retain(|choice| choice.get("type") != Some(&"null".into()));
            if let [Value::Object(one)] = choices.as_slice() {
                let one = one.clone();
                object.remove("anyOf");
                object.extend(one);
            }
        }
    }
}
