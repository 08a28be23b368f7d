//! A conversation, and the tokens that a model is prompted with.
//!
//! A [`Conversation`] is what was said. A [`Prompter`] renders it through the model's chat
//! template, up to where the next answer begins. It is rendered anew for each turn, since templates
//! write the past as they like: many leave out what the model thought. What of the result an engine
//! has computed already is the matter of [`Continued`](crate::Continued).

use crate::model::Model;
use crate::thinking;
use gristmill_core::Result;
use gristmill_models::Tokenizer;
use gristmill_models::chat::ChatTemplate;
use serde_json::{Map, Value, json};

/// What somebody asked, and what the model said to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exchange {
    /// The user's message.
    pub question: String,
    /// The answer, without what the model thought before it.
    pub answer: String,
    /// What it thought; empty where it did not.
    pub thinking: String,
}

/// What was said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// What the model shall be like.
    pub system: Option<String>,
    /// Questions with their answers, oldest first.
    pub exchanges: Vec<Exchange>,
}

impl Conversation {
    /// The messages as chat templates and other programs have them, oldest first: objects with
    /// `role` and `content`, and `reasoning_content` where the model thought.
    pub fn messages(&self) -> Vec<Value> {
        let system = self.system.iter().map(|s| json!({ "role": "system", "content": s }));
        let said = self.exchanges.iter().flat_map(|e| {
            let mut answer = json!({ "role": "assistant", "content": e.answer });
            if !e.thinking.is_empty() {
                answer["reasoning_content"] = json!(e.thinking);
            }
            [json!({ "role": "user", "content": e.question }), answer]
        });
        system.chain(said).collect()
    }
}

/// The tokens of a conversation up to where the answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The tag by which the prompt itself begins the model's thinking, where it does.
    pub opens: Option<&'static str>,
}

/// Makes prompts of conversations, as one model expects them.
#[derive(Debug)]
pub struct Prompter {
    template: Option<ChatTemplate>,
    /// Texts of the special tokens, empty where the model has none.
    bos: String,
    eos: String,
    /// Further variables of the template.
    variables: Map<String, Value>,
}

impl Prompter {
    /// With the model's own template.
    ///
    /// # Errors
    /// [`crate::Error::Model`] for a template that does not parse.
    pub fn new(model: &Model, tokenizer: &Tokenizer) -> Result<Prompter> {
        Ok(Prompter::with(model.chat_template()?, tokenizer))
    }

    /// With another template. Without any, what was said is joined by line feeds, for the model to
    /// continue as it is.
    pub fn with(template: Option<ChatTemplate>, tokenizer: &Tokenizer) -> Prompter {
        let text = |id: Option<u32>| id.map(|id| tokenizer.text(id).into_owned());
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        let (bos, eos) = (bos.unwrap_or_default(), eos.unwrap_or_default());
        Prompter { template, bos, eos, variables: Map::new() }
    }

    /// Asks templates that know how for a model that thinks first, or that does not.
    pub fn set_thinking(&mut self, on: Option<bool>) {
        for name in thinking::SWITCHES {
            match on {
                Some(on) => _ = self.variables.insert(name.into(), on.into()),
                None => _ = self.variables.remove(name),
            }
        }
    }

    /// Whether there is a template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// The prompt for the answer to `question`, after all of `before`.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] when the template refuses the conversation,
    /// [`crate::Error::Model`] when it fails.
    pub fn prompt(
        &self,
        tokenizer: &Tokenizer,
        before: &Conversation,
        question: &str,
    ) -> Result<Prompt> {
        let mut messages = before.messages();
        messages.push(json!({ "role": "user", "content": question }));
        let Some(template) = &self.template else {
            let said = messages.iter().filter_map(|m| m["content"].as_str());
            let text = said.collect::<Vec<_>>().join("\n");
            return Ok(Prompt { ids: tokenizer.prompt(&text), opens: None });
        };
        let rendered = self.render(template, messages)?;
        let ids = tokenizer.encode(&rendered, false, true);
        Ok(Prompt { ids, opens: thinking::opened_by(&rendered) })
    }

    /// Whether the template leaves a system message out without a word.
    ///
    /// # Errors
    /// As [`Prompter::prompt`].
    pub fn ignores_system(&self) -> Result<bool> {
        let Some(template) = &self.template else { return Ok(false) };
        let question = json!({ "role": "user", "content": "?" });
        let mark = "a system message, and where it went";
        let system = json!({ "role": "system", "content": mark });
        Ok(!self.render(template, vec![system, question])?.contains(mark))
    }

    /// Whether the template renders otherwise when it is told to think and when not to.
    ///
    /// # Errors
    /// As [`Prompter::prompt`].
    pub fn can_switch_thinking(&self) -> Result<bool> {
        let Some(template) = &self.template else { return Ok(false) };
        let render = |on: bool| {
            let switches = thinking::SWITCHES.map(|name| (name.to_owned(), Value::from(on)));
            let variables = Map::from_iter(switches);
            let question = json!([{ "role": "user", "content": "?" }]);
            template.render_json(&question, &variables, true, &self.bos, &self.eos)
        };
        Ok(render(true)? != render(false)?)
    }

    fn render(&self, template: &ChatTemplate, messages: Vec<Value>) -> Result<String> {
        let messages = Value::Array(messages);
        template.render_json(&messages, &self.variables, true, &self.bos, &self.eos)
    }
}
