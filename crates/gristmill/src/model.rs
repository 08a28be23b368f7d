//! One model file, with everything between its path and an engine.

use crate::bundled;
use crate::conversation::{Conversation, Prompter};
use crate::hardware::Device;
use crate::pack_cache::{self, PackCache};
use crate::placement::Placement;
use crate::settings::Settings;
use gristmill_core::{Error, HostTensor, Result};
use gristmill_cpu::Cpu;
use gristmill_engine::denoise::Denoiser;
use gristmill_engine::{Encoder, Engine, EngineOptions, Probe};
use gristmill_ir::{Backend, Capabilities, DenoiseRule, Options, Program, TensorDecl};
use gristmill_models::arch::{self, KvTypes, ModelInfo, Wanted};
use gristmill_models::chat::ChatTemplate;
use gristmill_models::{Gguf, LoadMode, Tokenizer, safetensors};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

/// Called while weights are loaded, with the bytes loaded so far and in all. An error ends the
/// loading.
pub type Progress<'p> = dyn FnMut(u64, u64) -> Result<()> + 'p;

/// Gives the weights of a program, one after the other.
type Weights<'w> = dyn FnMut(&TensorDecl) -> Result<HostTensor> + 'w;

/// An open model file.
#[derive(Debug)]
pub struct Model {
    gguf: Gguf,
}

impl Model {
    /// Opens the file at `path`, or the model in safetensors in the folder there; where there is
    /// nothing and `path` is the name of a bundled model, that one.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when it is missing, damaged or of another format.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_with(path, LoadMode::Auto)
    }

    /// [`Model::open`], saying how tensor data shall come into memory.
    ///
    /// # Errors
    /// As [`Model::open`]; also when the file cannot be mapped and must be.
    pub fn open_with(path: impl AsRef<Path>, mode: LoadMode) -> Result<Model> {
        let path = path.as_ref();
        if let Some(one) = path.to_str().and_then(bundled::find).filter(|_| !path.exists()) {
            return Model::bundled_as(one.name);
        }
        if safetensors::is_one(path) {
            return Ok(Model { gguf: safetensors::open_with(path, mode)? });
        }
        Ok(Model { gguf: Gguf::open_with(path, mode)? })
    }

    /// The story model inside this library.
    ///
    /// # Errors
    /// Never, unless the library was built from a damaged file.
    pub fn bundled() -> Result<Model> {
        Model::bundled_as(bundled::STORIES)
    }

    /// The model of this name inside this library.
    ///
    /// # Errors
    /// [`crate::Error::Model`] where there is none, with those that there are.
    pub fn bundled_as(name: &str) -> Result<Model> {
        let one = bundled::get(name)?;
        let name = format!("{} (bundled)", one.name);
        Ok(Model { gguf: Gguf::from_bytes(name, Arc::new(one.bytes))? })
    }

    /// The file: its metadata and its tensors.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The model's own name, or its file's.
    pub fn name(&self) -> &str {
        let own = self.gguf.opt::<&str>("general.name").ok().flatten();
        own.unwrap_or_else(|| self.gguf.name())
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let elements = |shape: &[usize; 4]| shape.iter().map(|&d| d as u64).product::<u64>();
        self.gguf.tensors().map(|t| elements(&t.shape)).sum()
    }

    /// Bytes of all tensors as the file stores them.
    pub fn tensor_bytes(&self) -> u64 {
        self.gguf.tensors().map(|t| t.bytes as u64).sum()
    }

    /// What an engine needs to know.
    ///
    /// # Errors
    /// [`crate::Error::Model`] for an architecture that is not supported, or a damaged file.
    pub fn info(&self, kv: KvTypes) -> Result<ModelInfo> {
        Ok(arch::architecture(&self.gguf, kv)?.info)
    }

    /// The architecture that the file names.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when it names none.
    pub fn architecture(&self) -> Result<&str> {
        self.gguf.get_str("general.architecture")
    }

    /// A list of words under a key; empty where there is none.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the key holds something else.
    pub fn labels(&self, key: &str) -> Result<Vec<&str>> {
        Ok(self.gguf.opt::<Vec<&str>>(key)?.unwrap_or_default())
    }

    /// The program of the model, whose weights the file is known to hold.
    ///
    /// # Errors
    /// As [`Model::info`], and listing the tensors that do not fit.
    pub fn program(&self, kv: KvTypes) -> Result<Program> {
        let program = arch::architecture(&self.gguf, kv)?.program()?;
        arch::check_tensors(&program, &self.gguf)?;
        Ok(program)
    }

    /// [`Model::program`] of a model that shall give vectors or scores, whatever the file says.
    ///
    /// # Errors
    /// As [`Model::program`]; [`Error::Usage`] for a denoiser.
    pub fn program_for(&self, kv: KvTypes, wanted: Wanted) -> Result<Program> {
        let program = arch::architecture_for(&self.gguf, kv, wanted)?.program()?;
        self.begins_with_text()?;
        arch::check_tensors(&program, &self.gguf)?;
        Ok(program)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`crate::Error::Model`] when the file has none, or one of a kind that is not supported.
    pub fn tokenizer(&self) -> Result<Arc<Tokenizer>> {
        let tokenizer = match self.gguf.folder() {
            Some(folder) => Tokenizer::from_folder(folder),
            None => Tokenizer::from_gguf(&self.gguf),
        };
        tokenizer.map(Arc::new)
    }

    /// The chat template, where the file has one.
    ///
    /// # Errors
    /// [`crate::Error::Model`] for one that does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>> {
        match self.gguf.folder() {
            Some(folder) => ChatTemplate::from_folder(folder),
            None => ChatTemplate::from_gguf(&self.gguf),
        }
    }

    /// The tokens of a conversation of one user's message, up to where the answer begins. For a
    /// model without a chat template: those of the text.
    ///
    /// # Errors
    /// Those of the tokenizer and of the template.
    pub fn chat_prompt(&self, message: &str) -> Result<Vec<u32>> {
        let tokenizer = self.tokenizer()?;
        let prompter = Prompter::new(self, &tokenizer)?;
        Ok(prompter.prompt(&tokenizer, &Conversation::default(), message)?.ids)
    }

    /// An engine on the processor.
    ///
    /// # Errors
    /// Those of [`Model::program`] and [`Engine::new`]; [`crate::Error::Memory`] when a context that was
    /// asked for does not fit.
    pub fn engine(&self, settings: &Settings) -> Result<Engine<Device>> {
        let cpu = Device::Cpu(Cpu::new(settings.cpu)?);
        let program = self.program(settings.kv)?;
        let plan = self.memory_plan(&program, settings, settings.max_seqs)?;
        let options = settings.engine_options(plan.context);
        self.engine_on(cpu, program, options, settings.pack_cache, &mut |_, _| Ok(()))
    }

    /// An engine for a program of this model on a device, with every choice made; with `keep` the
    /// weights are kept as the device packs them, or taken as they were kept.
    ///
    /// # Errors
    /// Those of [`Engine::new`] and of `progress`; [`Error::Usage`] for a denoiser; when the kept weights are damaged, or cannot be
    /// kept.
    pub fn engine_on(
        &self,
        device: impl Into<Device>,
        program: Program,
        options: EngineOptions,
        keep: bool,
        progress: &mut Progress<'_>,
    ) -> Result<Engine<Device>> {
        self.begins_with_text()?;
        let device = device.into();
        let (capabilities, form) = (device.capabilities(), device.packed_form());
        self.load_on(&capabilities, program, options.context, progress, |program, tensor| {
            let Some(form) = form.filter(|_| keep) else {
                return Engine::new(device, program, tensor, options);
            };
            let cache = PackCache::open(self, &program, form)?;
            let matrices = pack_cache::matrices(&program);
            let matrices: HashSet<String> = matrices.map(|d| d.name.clone()).collect();
            let mut cached = |decl: &TensorDecl| {
                let stored = tensor(decl)?;
                let kept = if matrices.contains(&decl.name) {
                    cache.tensor(&decl.name, &stored)?
                } else {
                    None
                };
                Ok(kept.unwrap_or(stored))
            };
            let engine = Engine::new(device, program.clone(), &mut cached, options)?;
            cache.keep(&program, |name| engine.packed(name))?;
            Ok(engine)
        })
    }

    /// A program of this model on a device, cut or watched, for passes of up to `tokens` tokens
    /// whose values are looked at.
    ///
    /// # Errors
    /// Those of [`Probe::new`] and of `progress`; [`Error::Usage`] for a denoiser.
    pub fn probe_on(
        &self,
        device: impl Into<Device>,
        program: Program,
        tokens: u32,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<Probe<Device>> {
        self.begins_with_text()?;
        let device = device.into();
        self.load_on(&device.capabilities(), program, tokens, progress, |program, tensor| {
            Probe::new(device, program, tensor, tokens, options)
        })
    }

    /// A program of this model on a device, for whole texts of up to `tokens` tokens.
    ///
    /// # Errors
    /// Those of [`Encoder::new`] and of `progress`; [`Error::Usage`] for a denoiser.
    pub fn encoder_on(
        &self,
        device: impl Into<Device>,
        program: Program,
        tokens: u32,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<Encoder<Device>> {
        self.begins_with_text()?;
        let device = device.into();
        self.load_on(&device.capabilities(), program, tokens, progress, |program, tensor| {
            Encoder::new(device, program, tensor, tokens, options)
        })
    }

    /// A denoiser's program on a device, for texts of up to `tokens` tokens, in steps of DDIM that add so
    /// much new noise (1 is DDPM).
    ///
    /// # Errors
    /// Those of [`Denoiser::new`] and of `progress`.
    pub fn denoiser_on(
        &self,
        device: impl Into<Device>,
        program: Program,
        tokens: u32,
        eta: f32,
        options: &Options,
        progress: &mut Progress<'_>,
    ) -> Result<Denoiser<Device>> {
        let (device, how) = (device.into(), (DenoiseRule::Ddim, eta, false));
        self.load_on(&device.capabilities(), program, tokens, progress, |program, tensor| {
            Denoiser::new(device, &program, tensor, tokens, how, options)
        })
    }

    /// # Errors
    /// [`Error::Usage`] for a model that does not; those of reading the architecture.
    fn begins_with_text(&self) -> Result<()> {
        match self.info(Settings::default().kv)?.is_denoiser() {
            true => Err(Error::Usage(format!(
                "{} brings texts out of noise and takes none; only `gristmill run` runs it",
                self.name()
            ))),
            false => Ok(()),
        }
    }

    /// Fits a program to a context of `tokens` on a device, and has `make` load its weights through the
    /// function that it is given.
    fn load_on<T>(
        &self,
        device: &Capabilities,
        program: Program,
        tokens: u32,
        progress: &mut Progress<'_>,
        make: impl FnOnce(Program, &mut Weights<'_>) -> Result<T>,
    ) -> Result<T> {
        let program = arch::fit_to_context(program, &self.gguf, tokens)?;
        Placement::of(&program, &self.gguf, device).check(&self.gguf)?;
        let mut tensor = self.weights(&program, progress);
        let made = make(program, &mut tensor)?;
        self.gguf.check_unchanged()?;
        self.gguf.release();
        Ok(made)
    }

    /// Gives the weights of a program one after the other. Before each it checks that the file
    /// that those before came from is still the same.
    fn weights<'m, 'p>(
        &'m self,
        program: &Program,
        progress: &'m mut Progress<'p>,
    ) -> impl FnMut(&TensorDecl) -> Result<HostTensor> + use<'m, 'p> {
        let bytes = |name: &str| self.gguf.tensor_info(name).map_or(0, |t| t.bytes as u64);
        let used = program.tensors.iter().zip(program.used_tensors()).filter(|t| t.1);
        let total: u64 = used.map(|(d, _)| bytes(&d.name)).sum();
        let mut done = 0;
        move |decl: &TensorDecl| {
            progress(done.min(total), total)?;
            self.gguf.check_unchanged()?;
            // The device has the one before.
            self.gguf.release();
            done += bytes(&decl.name);
            arch::tensor(decl, &self.gguf)
        }
    }
}
