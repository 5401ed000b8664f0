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

/// Length of what precedes the name of a tensor in its set: the key `prefix` of the set, with wrappers in between and
/// behind it.
pub(super) fn wrapped_prefix_len(full: &str, prefix: &str) -> usize {
    let mut components = prefix.matches('.').count();
    let mut len = 0;
    for part in full.split('.') {
        match WRAPPERS.contains(&part) {
            true => {}
            false if components == 0 => break,
            false => components -= 1,
        }
        len += part.len() + 1;
    }
    len.min(full.len())
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

/// Words of a component in lower case, without digits: `netG_EMA2` has `net`, `g` and `ema`, `EMAModel` has `ema` and
/// `model`.
fn words(component: &str) -> impl Iterator<Item = String> + '_ {
    let mut rest = component;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(|c: char| !c.is_alphabetic());
        let (word, after) = rest.split_at(word_len(rest));
        rest = after;
        (!word.is_empty()).then(|| word.to_lowercase())
    })
}

/// Length in bytes of the word at the start of `text`.
fn word_len(text: &str) -> usize {
    let mut chars = text.char_indices().peekable();
    while let Some((_, c)) = chars.next() {
        let Some(&(at, next)) = chars.peek() else { break };
        let starts_word = || text[at..].chars().nth(1).is_some_and(char::is_lowercase);
        if !next.is_alphabetic() || (next.is_uppercase() && (c.is_lowercase() || starts_word())) {
            return at;
        }
    }
    text.len()
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
    fn prefix_includes_wrappers_before_the_name() {
        for (full, prefix, expected) in [
            ("a._orig_mod.b.weight", "", ""),
            ("module.a.weight", "", "module."),
            ("model.module.a.weight", "model.", "model.module."),
            ("module.model.a.module.weight", "model.", "module.model."),
            ("module", "", "module"),
        ] {
            assert_eq!(&full[..wrapped_prefix_len(full, prefix)], expected, "{full}");
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
            "EMACallback",
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
