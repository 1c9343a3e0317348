package api

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"l3af/internal/api/apitest"
)

func TestMetrics(t *testing.T) {
	m := NewMetrics("1.2.3")
	m.Observe(30*time.Millisecond, 3, 1)
	m.Observe(time.Hour, 0, 0)
	node := &apitest.Node{Report: report}
	socket, _ := serve(t, node, Options{Metrics: m})
	c := dial("unix", socket)
	resp, body := do(t, c, "GET", "/metrics", nil)
	text := string(body)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, text)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	if _, err := parser.TextToMetricFamilies(strings.NewReader(text)); err != nil {
		t.Errorf("not readable for Prometheus: %v", err)
	}
	for _, line := range []string{
		`l3af_program_runs_total{hook="xdp",interface="v0",netns="",program="acl"} 1200`,
		`l3af_program_runs_total{hook="xdp",interface="v0",netns="",program="new"} 0`,
		`l3af_program_verdicts_total{hook="xdp",interface="v0",netns="",program="acl",verdict="drop"} 100`,
		`l3af_chain_state{hook="xdp",interface="v0",netns="",state="running"} 1`,
		`l3af_chain_state{hook="xdp",interface="v0",netns="",state="failed"} 0`,
		`l3af_chain_state{hook="tc-egress",interface="v0",netns="/proc/7/ns/net",state="failed"} 1`,
		`l3af_chain_state{hook="xdp",interface="we?ird*",netns="blue",state="waiting"} 1`,
		`l3af_chain_info{hook="xdp",id="3f2a9c41d0",interface="v0",mode="native",netns=""} 1`,
		`l3af_probe_state{probe="exec",state="running"} 1`,
		`l3af_monitor{aggregator="avg",hook="xdp",interface="v0",key="7",map="hits",netns="",program="acl"} 2.5`,
		`l3af_probe_monitor{aggregator="scalar",key="10.0.0.0/8",map="seen",probe="exec"} -3`,
		`l3af_revision 0`,
		`l3af_errors 0`,
		`l3af_reconcile_duration_seconds_count 2`,
		`l3af_reconcile_duration_seconds_bucket{le="0.0390625"} 1`,
		`l3af_reconcile_steps_total 3`,
		`l3af_reconcile_failures_total 1`,
		`l3af_build_info{version="1.2.3"} 1`,
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("missing: %s", line)
		}
	}
	for _, name := range []string{"go_goroutines ", "process_open_fds "} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("missing: %s", name)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	// What the daemon knows of itself is told even when the node cannot be read.
	node.Err = errors.New("no")
	if _, body = do(t, c, "GET", "/metrics", nil); !strings.Contains(string(body), "l3af_reconcile_steps_total 3\n") ||
		strings.Contains(string(body), "l3af_chain_state{") {
		t.Errorf("with an error: %s", body)
	}
}
