//! The traits that a backend implements.
//!
//! Core owns tensors: shape, strides, offset and type. A backend owns memory and kernels and gets a [`View`] of its
//! buffer. Core checks shapes, types and ranges before it calls; a backend trusts its arguments and returns errors only
//! for failures that cannot be foreseen (out of memory, a lost device).
//!
//! Core guarantees to every method, unless its documentation says otherwise:
//! - every view lies within its buffer, and has the shape that the method's documentation gives;
//! - outputs ([`ViewMut`]) do not overlap any input, and no two elements of an output share a position;
//! - "contiguous" means row-major without gaps at any offset; "any strides" includes 0;
//! - axes may have size 0 or 1.
//!
//! A backend guarantees:
//! - it writes all elements of its outputs and nothing else;
//! - results are batch invariant: the result for a row (token, image) does not depend on the other rows of the call. On the
//!   CPU it is bitwise identical, elsewhere within the stated error;
//! - calls are deterministic: equal calls in a process give bitwise identical results for any number of threads.

mod image_ops;
mod nn_ops;
mod storage;
mod tensor_ops;
mod train_ops;

pub use image_ops::{ConvArgs, ImageOps, Pooling, Windows};
pub use nn_ops::{
    Activation, AttentionArgs, AttentionGrads, DropoutMask, LinearGrads, NnOps, NormArgs, NormGrads,
    qkv_layouts, visible_len,
};
pub use storage::{Storage, View, ViewMut, copy_in_order};
pub use tensor_ops::{BinaryOp, TensorOps, UnaryOp};
pub use train_ops::{AdamW, AdamWArgs, Summation, TrainOps};

/// A device that runs models: the sum of the five traits.
pub trait Backend: Storage + TensorOps + NnOps + ImageOps + TrainOps {}

impl<T: Storage + TensorOps + NnOps + ImageOps + TrainOps> Backend for T {}
