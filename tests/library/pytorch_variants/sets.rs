//! Sets of weights under any key: EMA weights, wrappers, several sets, and errors that name what the file has.

use transdiff_core::DType;
use transdiff_core::models::vae::{StoredVae, Vae};
use transdiff_core::models::{FileKind, LoadHints, WeightSet};
use transdiff_core::reference::Reference;

use super::*;
use crate::common::archive::zip;
use crate::common::pickle::*;
use crate::common::tiny;

#[test]
fn ema_weights_are_found_under_any_key_and_behind_wrappers() {
    for key in
        ["model_ema", "ema", "ema_state_dict", "params_ema", "EMA", "netG_ema", "averaged_model", "shadow"]
    {
        let mut storages = Storages::default();
        let model = storages.model(0.0, plain);
        let ema = storages.model(2.0, |name| format!("_orig_mod.module.{name}"));
        let file = storages.file(&dict(&[("model", model), (key, ema)]));
        assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Ema, 2.0), "{key}");
        assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0), "{key}");
    }
}

#[test]
fn ema_weights_that_are_not_understood_are_refused_unless_raw_ones_are_asked_for() {
    let instance = |class: &str| [global("ema_pytorch", class).as_slice(), b")\x81"].concat();
    type MakeSet = fn(&mut Storages) -> Vec<u8>;
    let unknown: [(&str, MakeSet); 3] = [
        ("model_ema", |s| list(&[tensor(&s.add(&[0.5; 4]), &[4])])),
        ("ema_state_dict", |s| s.model(2.0, |name| name.replace('.', ""))),
        ("ema", |s| dict(&[("shadow_params", list(&[tensor(&s.add(&[0.5; 4]), &[2, 2])]))])),
    ];
    for (key, make) in &unknown {
        let mut storages = Storages::default();
        let (model, ema) = (storages.model(0.0, plain), make(&mut storages));
        let file = storages.file(&dict(&[("model", model), (key, ema)]));
        assert_refused(&file, &hints(), &[key, "--weights raw", "hint `weights`"]);
        assert_refused(&file, &LoadHints { weights: Some(WeightSet::Ema), ..hints() }, &[key]);
        assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0), "{key}");
        assert_eq!(found(&file, &under("model")).unwrap(), (WeightSet::Raw, 0.0), "{key}");
    }
    let mut storages = Storages::default();
    let model = storages.model(0.0, plain);
    let file = storages.file(&dict(&[("state_dict", model.clone()), ("ema", instance("EMA"))]));
    assert_refused(&file, &hints(), &["ema seems to hold", "--weights raw"]);
    assert_eq!(found(&file, &raw()).unwrap(), (WeightSet::Raw, 0.0));

    // Neither of these holds weights.
    let scalar = view(storage("FloatStorage", &storages.add(&[0.9]), 1), 0, &[], &[]);
    let file = storages.file(&dict(&[
        ("model", model),
        ("model_ema", b"N".to_vec()),
        ("ema_decay", scalar),
        ("ema_args", dict(&[("decay", int(1)), ("dtype", global("torch", "float32"))])),
    ]));
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Raw, 0.0));
}

#[test]
fn wrappers_are_ignored_anywhere_in_a_name() {
    let renames: [fn(&str) -> String; 4] = [
        |name| format!("_orig_mod.{name}"),
        |name| format!("module._orig_mod.{name}"),
        |name| name.replace(".mlp.", "._checkpoint_wrapped_module.mlp."),
        |name| {
            format!("_fsdp_wrapped_module.{}", name.replace("_blocks.0.", "_blocks.0._fsdp_wrapped_module."))
        },
    ];
    let vae = vae();
    for (i, rename) in renames.into_iter().enumerate() {
        let mut storages = Storages::default();
        let model = storages.model(0.0, rename);
        assert_eq!(found(&storages.file(&model), &hints()).unwrap().1, 0.0, "{i}");
        let vae = named(&storages.weights(&vae, 0.0, rename));
        let file = storages.file(&dict(&[("state_dict", vae)]));
        assert_eq!(FileKind::of(&file), FileKind::Codec);
        StoredVae::find(&file).unwrap().load(&Reference, DType::F32).unwrap();
    }
}

#[test]
fn tensors_beside_the_wrapper_are_not_part_of_the_model() {
    let mut storages = Storages::default();
    let model = storages.model(1.0, plain);
    let averaged = storages.model(2.0, |name| format!("module.{name}"));
    let count = view(storage("FloatStorage", &storages.add(&[7.0]), 1), 0, &[], &[]);
    let averaged = [averaged, text("n_averaged"), count.clone(), b"s".to_vec()].concat();
    let file = storages.file(&dict(&[("module", model), ("rng_state", tensor("0", &[24]))]));
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Single, 1.0));
    let file = storages.file(&averaged);
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Single, 2.0));
}

#[test]
fn two_spellings_of_one_name_are_refused() {
    let mut storages = Storages::default();
    let model = tiny::model(&Reference, &tiny::one_step(), DType::F32);
    let mut weights = storages.weights(&model, 0.0, plain);
    weights.push(("module.class_emb.weight".to_owned(), weights[0].1.clone()));
    let file = storages.file(&named(&weights));
    assert_refused(&file, &hints(), &["module.class_emb.weight", "apart from wrappers", "class_emb.weight"]);
}

#[test]
fn weights_are_found_under_any_key() {
    let prefixed = |prefix: &'static str| move |name: &str| format!("{prefix}{name}");
    for (keys, prefix) in [
        (&["state_dict"][..], ""),
        (&["model_state_dict"], ""),
        (&["params"], "module."),
        (&["net_g"], ""),
        (&["state_dict"], "model."),
        (&["checkpoint", "state", "generator"], "net.inner."),
    ] {
        let mut storages = Storages::default();
        let model = storages.model(0.0, prefixed(prefix));
        let noise = storages.model(3.0, |name| format!("{name}.exp_avg"));
        let nested = keys.iter().rev().fold(model, |inner, key| dict(&[(key, inner), ("epoch", int(3))]));
        let root = [nested, text("optimizer_states"), noise, b"s".to_vec()].concat();
        let file = storages.file(&root);
        assert_eq!(FileKind::of(&file), FileKind::Model, "{keys:?}");
        assert_eq!(found(&file, &hints()).unwrap().1, 0.0, "{keys:?}");
    }
}

fn vae() -> Vae<Reference> {
    Vae::new(&Reference, &tiny::vae(), DType::F32, 3).unwrap()
}

#[test]
fn model_and_vae_in_one_file_are_told_apart() {
    let mut storages = Storages::default();
    let mut items = storages.weights(&vae(), 0.0, |name| format!("first_stage_model.{name}"));
    let vae_only = storages.file(&dict(&[("state_dict", named(&items))]));
    assert_eq!(FileKind::of(&vae_only), FileKind::Codec);
    items.extend(storages.weights(&tiny::model(&Reference, &tiny::one_step(), DType::F32), 1.0, |name| {
        format!("model.{name}")
    }));
    let file = storages.file(&dict(&[("state_dict", named(&items))]));
    assert_eq!(FileKind::of(&file), FileKind::Model);
    assert_eq!(found(&file, &hints()).unwrap().1, 1.0);
    let key = "state_dict.first_stage_model";
    assert_eq!(FileKind::under(&file, Some(key)), FileKind::Codec);
    for file in [&vae_only, &file] {
        let stored = StoredVae::find_with(file, &under(key)).unwrap();
        stored.load(&Reference, DType::F32).unwrap();
    }
}

#[test]
fn one_of_several_sets_is_chosen_by_its_key() {
    let mut storages = Storages::default();
    let [a, b, ema] = [1.0, 2.0, 3.0].map(|offset| storages.model(offset, plain));
    let adam = storages.model(4.0, plain);
    let file =
        storages.file(&dict(&[("a", a.clone()), ("nested", dict(&[("b", b.clone())])), ("adam_m", adam)]));
    assert_refused(&file, &hints(), &["several sets", "a, nested.b", "--key KEY"]);
    assert_eq!(found(&file, &under("a")).unwrap().1, 1.0);
    assert_eq!(found(&file, &under("nested")).unwrap().1, 2.0);
    assert_eq!(found(&file, &under("nested.b")).unwrap().1, 2.0);
    assert_refused(&file, &under("c"), &["under the key c", "a, nested.b"]);
    let top = [storages.model(0.0, plain), text("a"), a.clone(), b"s".to_vec()].concat();
    assert_eq!(found(&storages.file(&top), &under("")).unwrap().1, 0.0);
    let file = storages.file(&dict(&[("a", a), ("b", b), ("a_ema", ema)]));
    assert_eq!(found(&file, &hints()).unwrap(), (WeightSet::Ema, 3.0));
    assert_refused(&file, &raw(), &["a, b"]);
    assert_eq!(found(&file, &under("b")).unwrap(), (WeightSet::Single, 2.0));
}

#[test]
fn error_names_what_the_file_has_instead() {
    let mut storages = Storages::default();
    let w = tensor(&storages.add(&[0.5]), &[1]);
    let file = storages.file(&dict(&[("epoch", int(3)), ("net", dict(&[("w", w)]))]));
    assert_refused(&file, &hints(), &["expected a TransDiff model", "epoch, net"]);
    let embedding = tensor(&storages.add(&[0.5]), &[1]);
    let file = storages.file(&dict(&[("net", dict(&[("class_emb.weight", embedding)]))]));
    assert_refused(&file, &hints(), &["net.class_emb.weight", "under net"]);
    let module =
        [global("__main__", "Net").as_slice(), b")\x81", &dict(&[("_modules", dict(&[]))]), b"b"].concat();
    let file = storages.file(&dict(&[("model", module.clone()), ("epoch", int(3))]));
    assert_refused(&file, &hints(), &["model is an instance of __main__.Net", "state_dict()"]);
    let whole = open_error(zip(&storages.archive(&module)));
    assert!(
        whole.contains("a whole module of class __main__.Net") && whole.contains("model.state_dict()"),
        "{whole}"
    );
}
