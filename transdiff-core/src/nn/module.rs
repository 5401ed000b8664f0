//! Parameters and the modules that hold them.

use crate::autograd::GradKey;
use crate::{Backend, Error, HostTensor, Result, Tensor};

/// A tensor that training changes.
///
/// Clones share the tensor's memory and the key of its gradient; whoever writes writes to a copy.
#[derive(Clone, Debug)]
pub struct Param<B: Backend> {
    key: GradKey,
    value: Tensor<B>,
    column_major: bool,
    trainable: bool,
}

impl<B: Backend> Param<B> {
    /// A trainable parameter.
    pub fn new(value: Tensor<B>) -> Self {
        Self { key: GradKey::unique(), value, column_major: false, trainable: true }
    }

    /// A weight [outputs, inputs, ..] whose memory is kept as [.., inputs, outputs]: products with it read memory in
    /// the order that GEMM packs.
    pub fn column_major(value: Tensor<B>) -> Result<Self> {
        let value = to_column_major(&value)?;
        Ok(Self { column_major: true, ..Self::new(value) })
    }

    /// Key of the parameter's gradient.
    pub fn key(&self) -> GradKey {
        self.key
    }

    /// The tensor.
    pub fn value(&self) -> &Tensor<B> {
        &self.value
    }

    /// The tensor, for an optimiser's step.
    pub fn value_mut(&mut self) -> &mut Tensor<B> {
        &mut self.value
    }

    /// Whether training changes the parameter.
    pub fn is_trainable(&self) -> bool {
        self.trainable
    }

    /// Freezes or thaws the parameter.
    pub fn set_trainable(&mut self, trainable: bool) {
        self.trainable = trainable;
    }

    /// Replaces the tensor by one of the same shape, in the type of the parameter.
    pub fn set(&mut self, value: &Tensor<B>) -> Result<()> {
        if value.shape() != self.value.shape() {
            return Err(Error::shape("Param::set", format!("{:?}", self.value.shape()), value.shape()));
        }
        let value = value.cast(self.value.dtype())?;
        self.value = if self.column_major { to_column_major(&value)? } else { value.contiguous()? };
        Ok(())
    }

    /// Replaces the tensor by one in host memory.
    pub fn set_host(&mut self, value: HostTensor) -> Result<()> {
        let value = value.cast(self.value.dtype())?;
        self.set(&Tensor::from_host(self.value.backend(), &value)?)
    }
}

/// A placeholder keeps its strides of 0: it has no memory to order.
fn to_column_major<B: Backend>(value: &Tensor<B>) -> Result<Tensor<B>> {
    if value.layout().strides().iter().zip(value.shape()).all(|(&stride, &size)| stride == 0 || size == 1) {
        return Ok(value.clone());
    }
    let rank = value.layout().rank();
    let inside_out: Vec<usize> = (2..rank).chain([1, 0]).collect();
    let mut back = vec![0; rank];
    inside_out.iter().enumerate().for_each(|(place, &axis)| back[axis] = place);
    value.permute(&inside_out)?.contiguous()?.permute(&back)
}

/// Something that holds parameters under names. The names are the keys of checkpoints.
pub trait Module<B: Backend> {
    /// Calls `f` with every parameter and its name, `prefix` in front, in a fixed order.
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>));

    /// [`visit`](Self::visit) for writing.
    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>));

    /// Every parameter with its name.
    fn params(&self) -> Vec<(String, &Param<B>)> {
        let mut out = Vec::new();
        self.visit("", &mut |name, param| out.push((name, param)));
        out
    }

    /// [`params`](Self::params) for writing.
    fn params_mut(&mut self) -> Vec<(String, &mut Param<B>)> {
        let mut out = Vec::new();
        self.visit_mut("", &mut |name, param| out.push((name, param)));
        out
    }

    /// Number of values in all parameters.
    fn param_count(&self) -> usize {
        self.params().iter().map(|(_, p)| p.value().numel()).sum()
    }

    /// Lets training change the parameters whose names start with one of `prefixes`, and no others. Returns how
    /// many tensors that are.
    fn train_only(&mut self, prefixes: &[&str]) -> usize {
        let mut count = 0;
        for (name, param) in self.params_mut() {
            param.set_trainable(prefixes.iter().any(|p| name.starts_with(p)));
            count += usize::from(param.is_trainable());
        }
        count
    }
}

impl<B: Backend> Module<B> for Param<B> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>)) {
        f(prefix.to_owned(), self);
    }

    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>)) {
        f(prefix.to_owned(), self);
    }
}

impl<B: Backend, M: Module<B>> Module<B> for Vec<M> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>)) {
        self.iter().enumerate().for_each(|(i, m)| m.visit(&join(prefix, &i.to_string()), f));
    }

    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>)) {
        self.iter_mut().enumerate().for_each(|(i, m)| m.visit_mut(&join(prefix, &i.to_string()), f));
    }
}

impl<B: Backend, M: Module<B>> Module<B> for Option<M> {
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>)) {
        self.iter().for_each(|m| m.visit(prefix, f));
    }

    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>)) {
        self.iter_mut().for_each(|m| m.visit_mut(prefix, f));
    }
}

pub(crate) fn join(prefix: &str, name: &str) -> String {
    match (prefix, name) {
        ("", name) => name.to_owned(),
        (prefix, "") => prefix.to_owned(),
        _ => format!("{prefix}.{name}"),
    }
}

/// Implements [`Module`] by listing fields under their checkpoint names; an empty name adds no level.
macro_rules! module {
    ($type:ident { $($name:literal => $field:ident),* $(,)? }) => {
        impl<B: $crate::Backend> $crate::nn::Module<B> for $type<B> {
            fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a $crate::nn::Param<B>)) {
                $($crate::nn::Module::visit(&self.$field, &$crate::nn::module_join(prefix, $name), f);)*
            }

            fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut $crate::nn::Param<B>)) {
                $($crate::nn::Module::visit_mut(&mut self.$field, &$crate::nn::module_join(prefix, $name), f);)*
            }
        }
    };
}
pub(crate) use module;
