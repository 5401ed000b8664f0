//! The traits that a backend implements.
//!
//! Core owns tensors: shape, strides, offset and type. A backend owns memory and kernels and sees a [`View`] of
//! its buffer. Core checks shapes, types and ranges before it calls; a backend trusts its arguments and returns an
//! error only for what cannot be foreseen (out of memory, a lost device).
//!
//! What core guarantees to every method unless its documentation says otherwise:
//! - every view lies within its buffer, and has the shape that the method's documentation gives;
//! - outputs ([`ViewMut`]) do not overlap any input, and no two elements of an output share a position;
//! - "contiguous" means row-major without gaps at any offset; "any strides" includes 0;
//! - axes may have size 0 or 1.
//!
//! What a backend guarantees:
//! - it writes every element of its outputs and nothing else;
//! - the result for one row (token, image) does not depend on which other rows are in the call, on the CPU to
//!   the bit, elsewhere within the stated error;
//! - the same call gives the same bits, whatever the number of threads.

mod image_ops;
mod nn_ops;
mod storage;
mod tensor_ops;
mod train_ops;

pub use image_ops::{ConvArgs, ImageOps, Resample};
pub use nn_ops::{
    Activation, AttentionArgs, AttentionGrads, LinearGrads, NnOps, NormArgs, NormGrads, visible_len,
};
pub use storage::{Storage, View, ViewMut};
pub use tensor_ops::{BinaryOp, TensorOps, UnaryOp};
pub use train_ops::{AdamW, AdamWSlot, TrainOps};

/// A device that runs the model: the sum of the five traits.
pub trait Backend: Storage + TensorOps + NnOps + ImageOps + TrainOps {}

impl<T: Storage + TensorOps + NnOps + ImageOps + TrainOps> Backend for T {}
