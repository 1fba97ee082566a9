"""The parsers that the flags name."""


class ReasoningParserManager:
    @classmethod
    def list_registered(cls):
        return ["deepseek_r1", "qwen3"]
