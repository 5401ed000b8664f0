//! Modules: named parameters.

use crate::Backend;
use crate::autograd::Param;

/// A layer or model with named parameters. The names are the keys of checkpoints.
pub trait Module<B: Backend> {
    /// Calls `f` with every parameter and its name, prefixed by `prefix`, in a fixed order.
    fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a Param<B>));

    /// [`visit`](Self::visit) with mutable parameters.
    fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut Param<B>));

    /// All parameters with their names.
    fn params(&self) -> Vec<(String, &Param<B>)> {
        let mut out = Vec::new();
        self.visit("", &mut |name, param| out.push((name, param)));
        out
    }

    /// [`params`](Self::params), mutable.
    fn params_mut(&mut self) -> Vec<(String, &mut Param<B>)> {
        let mut out = Vec::new();
        self.visit_mut("", &mut |name, param| out.push((name, param)));
        out
    }

    /// Number of elements of all parameters.
    fn param_count(&self) -> usize {
        self.params().iter().map(|(_, p)| p.value().numel()).sum()
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
            fn visit<'a>(&'a self, prefix: &str, f: &mut dyn FnMut(String, &'a $crate::autograd::Param<B>)) {
                $($crate::nn::Module::visit(&self.$field, &$crate::nn::module_join(prefix, $name), f);)*
            }

            fn visit_mut<'a>(&'a mut self, prefix: &str, f: &mut dyn FnMut(String, &'a mut $crate::autograd::Param<B>)) {
                $($crate::nn::Module::visit_mut(&mut self.$field, &$crate::nn::module_join(prefix, $name), f);)*
            }
        }
    };
}
pub(crate) use module;
