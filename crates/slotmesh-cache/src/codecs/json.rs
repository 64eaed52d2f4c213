use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, CodecError};

/// JSON: self-describing, so that fields with a default may be added without a new schema version, and other programs can read it; several
/// times the size and the time of [`Bincode`](super::Bincode).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Json;

impl<V: Serialize + DeserializeOwned> Codec<V> for Json {
    fn id(&self) -> u8 {
        3
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<(), CodecError> {
        serde_json::to_writer(out, value).map_err(|error| CodecError::new(error.to_string()))
    }

    fn decode(&self, bytes: &[u8]) -> Result<V, CodecError> {
        serde_json::from_slice(bytes).map_err(|error| CodecError::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[test]
    fn fields_may_come_and_go() {
        #[derive(Serialize, Deserialize, PartialEq, Debug)]
        struct Old {
            id: u32,
            nick: String,
        }
        #[derive(Deserialize, Serialize, PartialEq, Debug)]
        struct New {
            id: u32,
            #[serde(default)]
            mail: Option<String>,
        }
        let mut out = Vec::new();
        Json.encode(&Old { id: 7, nick: "ann".to_owned() }, &mut out).unwrap();
        assert_eq!(Codec::<New>::decode(&Json, &out).unwrap(), New { id: 7, mail: None });
        assert!(Codec::<Old>::decode(&Json, &out[1..]).is_err());
        assert!(Codec::<Old>::decode(&Json, &[&*out, b"x"].concat()).is_err());
    }
}
