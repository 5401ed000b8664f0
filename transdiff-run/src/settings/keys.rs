//! The keys. A key is declared once: the field, its documentation, its range, and the table in the documentation come
//! from the same lines.

use serde::{Deserialize, Serialize};

use transdiff_core::train::Accumulation;

use super::Kind;

/// A key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name with its section: `train.batch`.
    pub name: &'static str,
    /// Values that it accepts.
    pub kind: Kind,
    /// Description, a phrase.
    pub description: &'static str,
    /// Permission to change it when a run is resumed.
    pub changes: Changes,
}

impl Key {
    /// Name of its section: `train`.
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or("", |(section, _)| section)
    }

    /// Name without its section: `batch`.
    pub fn short_name(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, name)| name)
    }
}

/// Permission to change a key when a run is resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// A resumed run has the value that it began with.
    Fixed,
    /// A resumed run may have another value.
    Free,
}

/// Declares the sections and their keys: `name: type = kind, permission to change;`.
macro_rules! settings {
    ($(
        $(#[doc = $about:literal])+
        $section:ident: $name:ident {
            $( $(#[doc = $doc:literal])+ $key:ident: $type:ty = $kind:expr, $changes:ident; )+
        }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                $( $(#[doc = $doc])+ pub $key: $type, )+
            }
        )+

        /// Settings of a training run. What follows from the data is `None` until it is known.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct RunConfig {
            $( $(#[doc = $about])+ pub $section: $name, )+
        }

        /// All keys, by section.
        pub const KEYS: &[Key] = &[$( $( Key {
            name: concat!(stringify!($section), ".", stringify!($key)),
            kind: $kind,
            description: concat!($($doc),+),
            changes: Changes::$changes,
        }, )+ )+];
    };
}

/// Limit of sizes of the model, as the model itself has it.
const SIZE: Kind = Kind::Whole(1, 1 << 20);
/// Limit of counts that take part in 32-bit positions.
const SMALL_COUNT: Kind = Kind::Whole(1, u32::MAX as u64);

/// Values of guidance scales.
const SCALE: Kind = Kind::Number(|x| x >= 1.0, "a number of at least 1");

settings! {
    /// Sizes of the model.
    model: ModelSettings {
        /// Width of AR transformer and decoder
        width: Option<usize> = SIZE, Fixed;
        /// Attention heads; divides the width
        heads: Option<usize> = SIZE, Fixed;
        /// Blocks of the AR transformer
        encoder_blocks: Option<usize> = Kind::Whole(1, 1 << 12), Fixed;
        /// Blocks of the diffusion decoder
        decoder_blocks: Option<usize> = Kind::Whole(1, 1 << 12), Fixed;
        /// Hidden width of the blocks' MLPs, as a multiple of the width
        mlp_ratio: usize = SIZE, Fixed;
        /// Copies of the class embedding at the start of the sequence
        buffer_size: Option<usize> = SIZE, Fixed;
        /// AR steps, and images per sample: 1 without references, 4 for MRAR as in the paper
        groups: usize = SIZE, Fixed;
        /// Semantic features; groups divides it into squares
        feature_tokens: Option<usize> = SIZE, Fixed;
        /// Classes; default: those of the data
        classes: Option<usize> = SIZE, Fixed;
        /// Channels of a latent; default: those of the codec
        latent_channels: Option<usize> = SIZE, Fixed;
        /// Side of a latent; default: that of the data
        latent_size: Option<usize> = SIZE, Fixed;
    }

    /// Training data.
    data: DataSettings {
        /// Folder of pictures in class folders, or a latent cache
        path: Option<String> = Kind::Text, Free;
        /// Codec between pictures and latents: patch:N, or the file of a KL-VAE; default: that of the cache
        codec: Option<String> = Kind::Text, Fixed;
        /// Side of the square pictures in pixels; default: that of the cache
        size: Option<usize> = SIZE, Fixed;
        /// Colour channels: 1 for grey, 3 for colour; default: those of the cache, or 3
        channels: Option<usize> = Kind::OneOf(&[1, 3]), Fixed;
        /// Mirror each picture with probability 1/2; default: as the cache was made for, or true
        flip: Option<bool> = Kind::Switch, Free;
        /// Cut pictures to a square (crop), or fill them up to one (pad); default: that of the cache, or crop
        fit: Option<Fit> = Kind::Word(Fit::WORDS), Fixed;
        /// Held-out data for the validation loss: a share of the samples, or a folder; 0: none
        val: Validation = Kind::ShareOrFolder, Fixed;
        /// Index of MRAR samples, JSON lines with cate and files; default: references are drawn on the fly
        mrar_index: Option<String> = Kind::Text, Free;
        /// Order of an epoch: samples (a permutation of all), or shards (for network storage)
        shuffle: Shuffle = Kind::Word(Shuffle::WORDS), Fixed;
        /// Reaction to a picture that cannot be read
        on_broken: OnBroken = Kind::Word(OnBroken::WORDS), Free;
    }

    /// Training recipe, and the run's reports and checkpoints.
    train: TrainSettings {
        /// Samples per forward pass; default: by memory
        batch: Option<usize> = SMALL_COUNT, Free;
        /// Forward passes per step of each process; default: as many of the preset's as are left to a process
        accumulate: Option<usize> = SMALL_COUNT, Free;
        /// Number of processes that accumulate is for, as the run was started
        ranks: usize = SMALL_COUNT, Free;
        /// Combination of the gradients of a step's passes; the published code sums, and clips the sum
        accumulate_as: Accumulation = Kind::Word(&["mean", "sum"]), Free;
        /// Steps of the run; replaces epochs
        steps: Option<u64> = SMALL_COUNT, Free;
        /// Passes over the data; replaces steps
        epochs: Option<f64> = Kind::POSITIVE, Free;
        /// Learning rate after the warm-up; auto: base_lr · batch · accumulate · ranks / 256
        lr: LearningRate = Kind::NumberOrAuto, Free;
        /// Learning rate per 256 samples, for lr = "auto"; default: by width
        base_lr: Option<f64> = Kind::NOT_NEGATIVE, Free;
        /// Steps over which the learning rate rises from 0; replaces warmup_epochs
        warmup: Option<u64> = Kind::Whole(0, u32::MAX as u64), Free;
        /// Epochs over which the learning rate rises from 0; replaces warmup
        warmup_epochs: Option<f64> = Kind::NOT_NEGATIVE, Free;
        /// Learning rate after the warm-up: constant, cosine (to min_lr), or linear (to 0, from decay_from)
        decay: Decay = Kind::Word(Decay::WORDS), Free;
        /// Share of the steps after which the linear decay begins
        decay_from: f64 = Kind::SHARE, Free;
        /// Learning rate at the end of the cosine decay
        min_lr: f64 = Kind::NOT_NEGATIVE, Free;
        /// Decay rates of AdamW's moments
        betas: [f64; 2] = Kind::Pair(|x| (0.0..1.0).contains(&x), "two numbers of at least 0 and below 1"), Free;
        /// Epsilon, added to the root of the second moment
        eps: f64 = Kind::POSITIVE, Free;
        /// Weight decay of matrices outside the decoder
        weight_decay: f64 = Kind::NOT_NEGATIVE, Free;
        /// Largest norm of the gradients; larger ones are scaled down to it
        max_grad_norm: f64 = Kind::POSITIVE, Free;
        /// Noised copies of each latent per pass of the AR transformer
        batch_mul: usize = Kind::Whole(1, 1 << 16), Free;
        /// Probability that a sample's class is dropped, for guidance
        label_drop: f64 = Kind::PROBABILITY, Free;
        /// Dropout rate
        dropout: f64 = Kind::SHARE, Free;
        /// Weight of the term for diverse features; 0.001 in the published code where it is on
        diversity: f64 = Kind::NOT_NEGATIVE, Free;
        /// Decay of the EMA weights
        ema_decay: f64 = Kind::PROBABILITY, Free;
        /// Shorter EMA in the first steps: min(ema_decay, (1 + step) / (10 + step))
        ema_warmup: bool = Kind::Switch, Free;
        /// Prefixes of the names of the parameters to train; empty: all
        trainable: Vec<String> = Kind::Texts, Fixed;
        /// Type of forward and backward passes; weights and optimiser state are f32. auto: bf16 on a GPU, f32 on the CPU
        compute: Compute = Kind::Word(Compute::WORDS), Free;
        /// Type in which processes send each other gradients: f32, or bf16 for half of the bytes
        gradient_type: GradientType = Kind::Word(GradientType::WORDS), Free;
        /// Recompute blocks in the backward pass: less memory, a third more time
        gradient_checkpointing: bool = Kind::Switch, Free;
        /// Model or checkpoint whose weights the run starts from
        init: Option<String> = Kind::Text, Fixed;
        /// Weights to start from: ema or raw for both sets, or published (raw from raw, EMA from EMA)
        init_weights: InitWeights = Kind::Word(InitWeights::WORDS), Fixed;
        /// Seed of the weights and of everything random in the run
        seed: u64 = Kind::COUNT_OR_ZERO, Fixed;
        /// Steps between checkpoints
        checkpoint_every: u64 = Kind::COUNT, Free;
        /// Number of checkpoints to keep
        keep_last: usize = Kind::COUNT, Free;
        /// Steps of which checkpoints are kept for good, a multiple; 0: none
        keep_every: u64 = Kind::COUNT_OR_ZERO, Free;
        /// Reaction to a loss that is not finite: end, or go back to the last checkpoint and skip the batch
        on_nonfinite: OnNonFinite = Kind::Word(OnNonFinite::WORDS), Free;
        /// Steps between reports
        report_every: u64 = Kind::COUNT, Free;
        /// Steps between grids of samples; 0: none
        sample_every: u64 = Kind::COUNT_OR_ZERO, Free;
        /// Sampling steps of a grid
        sample_steps: usize = Kind::Whole(1, 1_000_000), Free;
        /// Guidance scale of a grid; 1 disables guidance
        sample_guidance: f64 = SCALE, Free;
    }

    /// Distillation of a model into one that needs few evaluations and no guidance.
    distill: DistillSettings {
        /// Model that is distilled, in place of training from data alone
        teacher: Option<String> = Kind::Text, Fixed;
        /// Guidance scale that the student learns; default: that of the published model, or 1
        guidance: Option<f64> = SCALE, Fixed;
        /// Lowest and highest time at which the teacher is guided
        guidance_interval: [f64; 2] = Kind::Pair(|t| (0.0..=1.0).contains(&t), "two numbers from 0 to 1"), Fixed;
        /// Scale at which the pseudo-Huber loss turns from quadratic to linear
        huber: f64 = Kind::POSITIVE, Free;
    }
}

/// Declares an enumeration whose variants are words of the configuration.
macro_rules! words {
    ($(
        $(#[doc = $about:literal])+
        $type:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+ }
    )+) => {
        $(
            $(#[doc = $about])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
            pub enum $type {
                $( $(#[doc = $doc])+ #[serde(rename = $word)] $variant, )+
            }

            impl $type {
                /// All words, in the order of the variants.
                pub const WORDS: &[&str] = &[$($word),+];

                /// Word in the configuration.
                pub fn word(self) -> &'static str {
                    match self {
                        $( Self::$variant => $word, )+
                    }
                }
            }
        )+
    };
}

words! {
    /// Way in which a picture becomes a square.
    Fit {
        /// Cut off what is beyond the square.
        Crop = "crop",
        /// Fill up to the square.
        Pad = "pad",
    }
    /// Order of the samples of an epoch.
    Shuffle {
        /// A permutation of all samples.
        Samples = "samples",
        /// A permutation of the shards, and of the samples within a window of shards.
        Shards = "shards",
    }
    /// Reaction to a picture that cannot be read.
    OnBroken {
        /// End with an error that names it.
        Stop = "stop",
        /// Name it, count it, and go on without it.
        Skip = "skip",
    }
    /// Learning rate after the warm-up.
    Decay {
        /// The same to the end.
        Constant = "constant",
        /// A half cosine.
        Cosine = "cosine",
        /// Constant at first, then linearly to 0.
        Linear = "linear",
    }
    /// Type of forward and backward passes.
    Compute {
        /// bf16 on a GPU, f32 on the CPU.
        Auto = "auto",
        /// f32.
        F32 = "f32",
        /// bf16.
        Bf16 = "bf16",
    }
    /// Type in which processes send each other gradients.
    GradientType {
        /// f32.
        F32 = "f32",
        /// bf16.
        Bf16 = "bf16",
    }
    /// Weights that a run starts from.
    InitWeights {
        /// EMA weights, or those of a file with a single set.
        Ema = "ema",
        /// Weights after the last training step.
        Raw = "raw",
        /// Raw weights from the raw ones, and EMA weights from the EMA ones, as the published code.
        Published = "published",
    }
    /// Reaction to a loss that is not finite.
    OnNonFinite {
        /// End with an error.
        Stop = "stop",
        /// Go back to the last checkpoint and skip the batch.
        Rollback = "rollback",
    }
}

/// The learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LearningRate {
    /// This rate.
    Value(f64),
    /// The rule over the samples per step, `auto`.
    Rule(LearningRateRule),
}

/// The rule of [`LearningRate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LearningRateRule {
    /// Base rate · samples per step / 256.
    #[serde(rename = "auto")]
    Auto,
}

/// Held-out data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Validation {
    /// Share of the samples, in [0, 1); 0 for none.
    Share(f64),
    /// A folder or cache of its own.
    Folder(String),
}
