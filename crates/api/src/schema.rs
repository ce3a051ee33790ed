//! How a type looks in OpenAPI. [`message!`] defines a struct together with its schema, so that neither is forgotten.

use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use units::{CaFingerprint, HostKey, NodeName, PoolName, VmName, VolumeName};

/// A type that has a place in the API's document.
pub trait Schema {
    /// JSON Schema (2020-12, as OpenAPI 3.1 wants it).
    fn schema() -> Value;

    /// Whether an object may leave it out.
    const OPTIONAL: bool = false;
}

impl<T: Schema> Schema for Option<T> {
    fn schema() -> Value {
        T::schema()
    }

    const OPTIONAL: bool = true;
}

impl<T: Schema> Schema for Vec<T> {
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema()})
    }
}

impl Schema for String {
    fn schema() -> Value {
        json!({"type": "string"})
    }
}

impl Schema for bool {
    fn schema() -> Value {
        json!({"type": "boolean"})
    }
}

impl Schema for u64 {
    fn schema() -> Value {
        json!({"type": "integer", "minimum": 0})
    }
}

macro_rules! a_name {
    ($($name:ty),*) => {
        $(impl Schema for $name {
            fn schema() -> Value {
                json!({"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"})
            }
        })*
    };
}
a_name!(NodeName, PoolName, VmName, VolumeName);

impl Schema for HostKey {
    fn schema() -> Value {
        json!({"type": "string", "pattern": "^[0-9a-f]{64}$"})
    }
}

impl Schema for CaFingerprint {
    fn schema() -> Value {
        HostKey::schema()
    }
}

impl Schema for IpAddr {
    fn schema() -> Value {
        json!({"type": "string", "examples": ["192.0.2.1", "2001:db8::1"]})
    }
}

impl Schema for SocketAddr {
    fn schema() -> Value {
        json!({"type": "string", "examples": ["192.0.2.1:10811", "[2001:db8::1]:10811"]})
    }
}

/// Doc comments as one text.
pub fn described(mut schema: Value, lines: &[&str]) -> Value {
    let text = lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
    schema["description"] = Value::String(text);
    schema
}

/// Defines a struct of the API with its schema.
macro_rules! message {
    (
        $(#[doc = $doc:literal])*
        $(#[serde($($serde:tt)*)])?
        pub struct $name:ident {
            $( $(#[doc = $field_doc:literal])* pub $field:ident: $type:ty, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        $(#[serde($($serde)*)])?
        pub struct $name {
            $( $(#[doc = $field_doc])* pub $field: $type, )*
        }

        impl $crate::Schema for $name {
            fn schema() -> serde_json::Value {
                let mut required: Vec<&str> = Vec::new();
                let mut properties = serde_json::Map::new();
                $(
                    let schema = $crate::schema::described(<$type as $crate::Schema>::schema(), &[$($field_doc),*]);
                    properties.insert(stringify!($field).to_owned(), schema);
                    if !<$type as $crate::Schema>::OPTIONAL {
                        required.push(stringify!($field));
                    }
                )*
                let object = serde_json::json!({"type": "object", "properties": properties, "required": required});
                $crate::schema::described(object, &[$($doc),*])
            }
        }
    };
}

/// Defines an enum of plain words with its schema.
macro_rules! words {
    (
        $(#[doc = $doc:literal])*
        pub enum $name:ident {
            $( $(#[doc = $word_doc:literal])* $word:ident = $text:literal, )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $( $(#[doc = $word_doc])* #[serde(rename = $text)] $word, )*
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$word),*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$word => $text, )*
                }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $( Self::$word => concat!($($word_doc),*).trim(), )*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                let known = || Self::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>().join(", ");
                let found = Self::ALL.iter().find(|word| word.as_str() == text);
                found.copied().ok_or_else(|| format!("'{text}' is none of {}", known()))
            }
        }

        impl $crate::Schema for $name {
            fn schema() -> serde_json::Value {
                let words: Vec<&str> = Self::ALL.iter().map(|word| word.as_str()).collect();
                $crate::schema::described(serde_json::json!({"type": "string", "enum": words}), &[$($doc),*])
            }
        }
    };
}

pub(crate) use {message, words};
