"""The panel with a server on a Ray cluster: it looks and works as with any other, and says when the cluster is away."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.ray.nodes import Cluster, until

from .panel import open_panel


@pytest.fixture
def cluster(home, vllm, server, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_MAGIC_CLUSTER_RENEWAL", "1")
    made = Cluster(tmp_path / "nodes", {})
    yield made
    made.close()


def test_a_life_on_a_cluster(lab, cluster):
    panel = open_panel(lab)
    panel.fill("tiny", f"--cluster {cluster.address}")
    expect(panel.root.locator(".vmp-note:not(.queued)")).to_contain_text(
        "The server will run on the Ray cluster at http://127"
    )
    panel.button("Start").click()
    panel.wait_state("ready", 120)  # the cluster has only just begun
    panel.tab("Log")
    expect(panel.log).to_contain_text("The job runs on node-127.0.0.")
    panel.tab("Chat")
    panel.say("Hello there")
    expect(panel.root.locator(".vmp-turn")).to_contain_text("word0 word1")
    cluster.freeze_head()
    try:
        panel.state("unreachable")
        panel.shot("unreachable")
    finally:
        cluster.thaw_head()
    panel.state("ready")
    panel.button("Stop").click()
    panel.state("released")
    expect(panel.root.locator(".vmp-release")).to_contain_text("proved by processes")
    panel.shot("released-on-a-cluster")
    until(lambda: "RUNNING" not in cluster.jobs().values())
