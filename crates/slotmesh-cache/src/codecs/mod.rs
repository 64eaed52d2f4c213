//! Codecs for [`CacheBuilder::codec`](crate::CacheBuilder::codec): [`Bincode`], which is the default, [`Raw`], and behind a feature of its
//! own each `Json` (`json`), `Postcard` (`postcard`) and `Lz4` (`lz4`), which compresses what another one makes.
//!
//! A cache reads what its own codec wrote, and takes anything else for a miss; to change the codec during a deployment costs loads,
//! and no wrong values.

#[cfg(feature = "json")]
mod json;
#[cfg(feature = "lz4")]
mod lz4;
#[cfg(feature = "postcard")]
mod postcard;
mod raw;

pub use crate::codec::Bincode;

#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "lz4")]
pub use self::lz4::Lz4;
#[cfg(feature = "postcard")]
pub use self::postcard::Postcard;
pub use self::raw::Raw;
