//! Views, concatenation and casts.

use crate::autograd::gradients::Gradients;
use crate::autograd::tape::{Inputs, Vjp};
use crate::autograd::var::{Var, record};
use crate::{Backend, DType, Result, Tensor};

type Grads<B> = Result<Vec<Option<Tensor<B>>>>;

struct Reshape {
    shape: Vec<usize>,
}

impl<B: Backend> Vjp<B> for Reshape {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.reshape(&self.shape)?)])
    }
}

struct Permute {
    axes: Vec<usize>,
}

impl<B: Backend> Vjp<B> for Permute {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        let mut back = vec![0; self.axes.len()];
        for (place, &axis) in self.axes.iter().enumerate() {
            back[axis] = place;
        }
        Ok(vec![Some(dy.permute(&back)?)])
    }
}

struct Narrow {
    shape: Vec<usize>,
    axis: usize,
    start: usize,
}

impl<B: Backend> Vjp<B> for Narrow {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.pad_into(&self.shape, self.axis, self.start)?)])
    }
}

struct Broadcast {
    shape: Vec<usize>,
}

impl<B: Backend> Vjp<B> for Broadcast {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.sum_to(&self.shape)?)])
    }
}

struct Cat {
    axis: usize,
    sizes: Vec<usize>,
}

impl<B: Backend> Vjp<B> for Cat {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        let mut start = 0;
        let part = |&size: &usize| {
            let part = dy.narrow(self.axis, start, size)?;
            start += size;
            Ok(Some(part))
        };
        self.sizes.iter().map(part).collect()
    }
}

struct Cast {
    dtype: DType,
}

impl<B: Backend> Vjp<B> for Cast {
    fn backward(self: Box<Self>, dy: Tensor<B>, _: &mut Inputs<'_, B>, _: &mut Gradients<B>) -> Grads<B> {
        Ok(vec![Some(dy.cast(self.dtype)?)])
    }
}

impl<B: Backend> Var<B> {
    /// The same elements in another shape.
    pub fn reshape(&self, shape: &[usize]) -> Result<Self> {
        record(self.value().reshape(shape)?, &[self], || Reshape { shape: self.shape().to_vec() })
    }

    /// Reorders the axes.
    pub fn permute(&self, axes: &[usize]) -> Result<Self> {
        record(self.value().permute(axes)?, &[self], || Permute { axes: axes.to_vec() })
    }

    /// Elements `start..start + len` of one axis.
    pub fn narrow(&self, axis: usize, start: usize, len: usize) -> Result<Self> {
        let y = self.value().narrow(axis, start, len)?;
        record(y, &[self], || Narrow { shape: self.shape().to_vec(), axis, start })
    }

    /// Repeats axes of size 1 and adds axes in front.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Self> {
        record(self.value().broadcast_to(shape)?, &[self], || Broadcast { shape: self.shape().to_vec() })
    }

    /// Concatenates variables along `axis`.
    pub fn cat(parts: &[&Self], axis: usize) -> Result<Self> {
        let values: Vec<&Tensor<B>> = parts.iter().map(|v| v.value()).collect();
        let sizes = || parts.iter().map(|v| v.dim(axis)).collect();
        record(Tensor::cat(&values, axis)?, parts, || Cat { axis, sizes: sizes() })
    }

    /// The same values in another float type; the gradient has the type of `self`.
    pub fn cast(&self, dtype: DType) -> Result<Self> {
        if self.value().dtype() == dtype {
            return Ok(self.clone());
        }
        record(self.value().cast(dtype)?, &[self], || Cast { dtype: self.value().dtype() })
    }
}
