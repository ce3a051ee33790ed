//! What a QEMU offers: its machine types, its CPU models, and what guests see of them on this host.

use super::command::{Command, plain};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

plain! {
    /// The machine types.
    QueryMachines = "query-machines" -> Vec<MachineInfo>;
    /// The CPU models.
    QueryCpuDefinitions = "query-cpu-definitions" -> Vec<CpuDefinition>;
}

/// A machine type.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MachineInfo {
    /// As `pc-q35-7.2`.
    pub name: String,
    /// Another name of it, as `q35`.
    #[serde(default)]
    pub alias: Option<String>,
}

/// A CPU model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuDefinition {
    /// Its name.
    pub name: String,
    /// Flags of it that guests do not get here, with this accelerator.
    #[serde(default)]
    pub unavailable_features: Vec<String>,
}

/// Asks for all properties of a CPU model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueryCpuModelExpansion {
    #[serde(rename = "type")]
    kind: &'static str,
    model: ModelName,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct ModelName {
    name: String,
}

impl QueryCpuModelExpansion {
    /// Of this model.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self { kind: "full", model: ModelName { name: name.to_owned() } }
    }
}

impl Command for QueryCpuModelExpansion {
    const NAME: &'static str = "query-cpu-model-expansion";
    type Reply = CpuModelExpansion;
}

/// A model's properties.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CpuModelExpansion {
    /// The model.
    pub model: CpuModel,
}

/// A model with its properties: flags are true or false, the rest numbers and texts.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct CpuModel {
    /// Its name.
    pub name: String,
    /// What it has.
    pub props: Map<String, Value>,
}
