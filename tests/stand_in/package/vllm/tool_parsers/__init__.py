"""The parsers that the flags name."""


class ToolParserManager:
    @classmethod
    def list_registered(cls):
        return ["hermes", "qwen3_coder", "qwen3_xml"]
