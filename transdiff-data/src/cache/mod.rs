//! Cache of latents: a directory in which the latents of a set of pictures are stored once, for every later training run.
//!
//! | file | contents |
//! |---|---|
//! | `cache.json` | [`CacheHeader`]: codec, size, crop, classes, shape and type of the latents |
//! | `entries.safetensors` | relative path and label of every picture that is to be stored |
//! | `shard-00000.safetensors` … | latents: `moments` [n, v, 2C, h, w] or `latents` [n, v, C, h, w], where v is 2 (the image and its mirror image) or 1; `entries` of n, their places among the pictures; `checksums` (n × v), CRC-32 of each latent's bytes; `skipped`, broken pictures as JSON |
//! | `index.safetensors` | written by [`merge`]: `labels`, `rows` (shard · entries per shard + row), `checksums`, `paths` as text with `path_ends`, `skipped` |
//!
//! Every file is written atomically, and a shard is one file: after a kill, [`CacheWriter`] continues with the shards that
//! are not there. Shards and index carry the hash of the header, so that files of another cache are not taken for those
//! of this one. An index is there only while all shards are.

mod dataset;
mod directory;
mod entries;
mod fill;
mod header;
mod import;
mod index;
mod merge;
mod part;
mod raw_tensor;
mod shard;
mod state;
mod writer;

pub use dataset::CachedDataset;
pub use directory::HEADER_FILE;
pub use entries::CacheEntry;
pub use fill::{FillOptions, FillProgress, fill};
pub use header::{CacheHeader, CacheSpec, Expected, ItemKind};
pub use import::{NpzImport, import_npz, is_npz_folder};
pub use index::Skipped;
pub use merge::{CacheSummary, merge};
pub use part::Part;
pub use state::CacheState;
pub use writer::{CacheWriter, ShardRows};
