//! Names in checkpoints: components that wrappers add, and keys that tell the role of a set of weights.

use std::borrow::Cow;

/// Components that wrappers add anywhere in a name: distributed training, `torch.compile`, activation checkpointing.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// Words of keys that hold EMA weights, or another average.
const EMA: [&str; 7] = ["ema", "averaged", "average", "avg", "shadow", "swa", "polyak"];
/// Words that are joined with `ema` in a key: `emamodel`, `netgema`.
const JOINED: [&str; 8] = ["model", "net", "netg", "param", "params", "weight", "weights", "state"];
/// Words of keys that hold raw weights although a key around them says otherwise.
const RAW: [&str; 3] = ["online", "raw", "student"];
/// Words of keys that hold the state of an optimiser.
const OPTIMIZER: [&str; 9] =
    ["optimizer", "optimizers", "optim", "opt", "adam", "adamw", "momentum", "grad", "grads"];

/// Role of a set of tensors, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Ema,
    /// Raw weights, or the only set of a file.
    Weights,
    Optimizer,
}

/// Returns the name without the components that wrappers add.
pub(super) fn unwrapped(name: &str) -> Cow<'_, str> {
    let is_wrapper = |part: &&str| WRAPPERS.contains(part);
    if !name.split('.').any(|part| is_wrapper(&part)) {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.split('.').filter(|part| !is_wrapper(part)).collect::<Vec<_>>().join("."))
}

/// Role of the tensors under the key `path`, which the innermost component with a known word tells.
pub(super) fn role(path: &str) -> Role {
    if path.split('.').any(is_optimizer) {
        return Role::Optimizer;
    }
    let decisive = path.rsplit('.').find_map(|part| match part {
        part if is_ema(part) => Some(Role::Ema),
        part if words(part).any(|word| RAW.contains(&&*word)) => Some(Role::Weights),
        _ => None,
    });
    decisive.unwrap_or(Role::Weights)
}

/// Returns whether a component of a name says that it holds an average of the weights.
pub(super) fn is_ema(component: &str) -> bool {
    let is_joined = |word: &str| {
        let rest = word.strip_prefix("ema").or_else(|| word.strip_suffix("ema"));
        rest.is_some_and(|rest| JOINED.contains(&rest))
    };
    !is_optimizer(component) && words(component).any(|word| EMA.contains(&&*word) || is_joined(&word))
}

fn is_optimizer(component: &str) -> bool {
    let is_moment = |component: &str| component.to_lowercase().contains("exp_avg");
    is_moment(component) || words(component).any(|word| OPTIMIZER.contains(&&*word))
}

/// Words of a component in lower case, without digits: `netG_EMA2` has `net`, `g` and `ema`.
fn words(component: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = component;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_alphabetic());
        let mut chars = rest.char_indices().peekable();
        let mut end = rest.len();
        while let Some((_, c)) = chars.next() {
            if let Some(&(at, next)) = chars.peek()
                && (!next.is_alphabetic() || (c.is_lowercase() && next.is_uppercase()))
            {
                end = at;
                break;
            }
        }
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then(|| word.to_lowercase())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_removed_anywhere() {
        for (name, plain) in [
            ("module.a._orig_mod.b.weight", "a.b.weight"),
            ("blocks.0._checkpoint_wrapped_module.mlp", "blocks.0.mlp"),
            ("_fsdp_wrapped_module.x", "x"),
            ("modules.x", "modules.x"),
            ("module", ""),
        ] {
            assert_eq!(unwrapped(name), plain, "{name}");
        }
    }

    #[test]
    fn keys_of_averages_are_recognised_in_any_spelling() {
        for key in [
            "ema",
            "model_ema",
            "ema_state_dict",
            "params_ema",
            "EMA",
            "netG_EMA",
            "emaModel",
            "modelema",
            "ema2",
            "averaged_model",
            "shadow_params",
            "swa_model",
            "model-ema",
        ] {
            assert_eq!(role(key), Role::Ema, "{key}");
        }
        for key in
            ["model", "state_dict", "schema", "emails", "cinema", "params", "net_g", "ema.online_model", ""]
        {
            assert_eq!(role(key), Role::Weights, "{key}");
        }
        for key in ["optimizer.state", "adam_m", "optimizer.exp_avg", "opt_ema", "model.exp_avg_sq"] {
            assert_eq!(role(key), Role::Optimizer, "{key}");
        }
    }
}
