//! Views of buffers as slices.

use transdiff_core::backend::{View, ViewMut};

use crate::buffer::Stored;
use crate::device::Cpu;
use crate::element::Real;
use crate::scratch::Scratch;

/// A type of tensors that kernels compute in.
pub(crate) trait Float: Real + Stored + Scratch {}

impl<T: Real + Stored + Scratch> Float for T {}

/// The elements of a view without gaps.
pub(crate) fn input<'a, T: Stored>(view: &View<'a, Cpu>) -> &'a [T] {
    &T::slice(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}

/// The elements of a view without gaps, for writing.
pub(crate) fn output<'a, T: Stored>(view: ViewMut<'a, Cpu>) -> &'a mut [T] {
    &mut T::slice_mut(view.buffer)[view.layout.offset()..][..view.layout.numel()]
}
