package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"l3af"
	"l3af/internal/configs"
)

// configsMetrics are the metrics of L3AF's programs under upstream's names and
// labels.
type configsMetrics struct {
	node                                        Node
	started, stopped, updated, unable, deployed *prometheus.CounterVec
	running, since, monitor                     *prometheus.Desc
}

// newConfigsMetrics makes them for a host and registers them.
func newConfigsMetrics(node Node, host string, registry prometheus.Registerer) *configsMetrics {
	labels := []string{"ebpf_program", "direction", "interface_name", "ipv4_address"}
	constant := prometheus.Labels{"host": strings.ToValidUTF8(host, "?")}
	counter := func(name, help string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "l3afd", Name: name, Help: help, ConstLabels: constant}, labels)
		registry.MustRegister(v)
		return v
	}
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("l3afd_"+name, help, labels, constant)
	}
	m := &configsMetrics{
		node:     node,
		started:  counter("BPFStartCount", "How often a program was started by a call of L3AF's API."),
		stopped:  counter("BPFStopCount", "How often a program was stopped by a call of L3AF's API."),
		updated:  counter("BPFUpdateCount", "How often a running program was changed by a call of L3AF's API."),
		unable:   counter("BPFUpdateFailedCount", "How often the change of a running program was refused."),
		deployed: counter("BPFDeployFailedCount", "How often the start of a program was refused."),
		running:  desc("BPFRunning", "1 when the program runs, else 0.", "ebpf_program", "version", "direction", "interface_name", "ipv4_address"),
		since:    desc("BPFStartTime", "When the program began to be what it is, in Unix seconds.", labels...),
		monitor:  desc("BPFMonitorMap", "What monitor_maps makes of an entry of a map.", "ebpf_program", "map_name", "interface_name", "ipv4_address"),
	}
	registry.MustRegister(m)
	return m
}

func count(v *prometheus.CounterVec, list []configs.Placed) {
	for _, p := range list {
		v.WithLabelValues(p.Label, p.Direction, p.Iface, strings.ToValidUTF8(p.IPv4, "?")).Inc()
	}
}

func (m *configsMetrics) configsDone(start, update, stop []configs.Placed) {
	count(m.started, start)
	count(m.updated, update)
	count(m.stopped, stop)
}

func (m *configsMetrics) configsFailed(start, update []configs.Placed) {
	count(m.deployed, start)
	count(m.unable, update)
}

// Describe is [prometheus.Collector].
func (m *configsMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.running, m.since, m.monitor} {
		ch <- d
	}
}

// Collect reads the node's status.
func (m *configsMetrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := m.node.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.running, fmt.Errorf("status: %w", err))
		return
	}
	rev := m.node.Current()
	if rev == nil {
		return
	}
	// Upstream's labels do not tell everything apart: what comes first counts.
	seen := make(map[string]bool)
	emit := func(d *prometheus.Desc, value float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "?")
		}
		if key := d.String() + "\xff" + strings.Join(labels, "\xff"); !seen[key] {
			seen[key] = true
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
		}
	}
	for _, p := range configs.Everything(&rev.State) {
		live := liveOf(st, &p)
		runs := 0.0
		if live.running {
			runs = 1
		}
		emit(m.running, runs, p.Label, p.Version, p.Direction, p.Iface, p.IPv4)
		if !p.Since.IsZero() && live.running {
			emit(m.since, float64(p.Since.Unix()), p.Label, p.Direction, p.Iface, p.IPv4)
		}
		for _, e := range live.monitor {
			emit(m.monitor, e.Value, p.Label, e.Map+"_"+e.Key+"_"+string(e.Aggregator), p.Iface, p.IPv4)
		}
	}
}

// live is what runs of a program.
type live struct {
	running bool
	id      uint32 // of the program in the kernel: that of its whole chain
	link    uint32
	maps    []string
	monitor []l3af.MonitorStatus
	agent   *l3af.AgentStatus // nil: it has none
}

func liveOf(st *l3af.Status, p *configs.Placed) live {
	if p.Probe != nil {
		for _, s := range st.Probes {
			if s.Name == p.Probe.Name {
				return live{s.State == l3af.Running, s.ProgramID, s.LinkID, nil, s.Monitor, s.Agent}
			}
		}
		return live{}
	}
	h := p.Hook()
	for _, c := range st.Chains {
		if c.Interface != h.Interface || c.Netns != "" || c.Hook != h.Kind {
			continue
		}
		for _, s := range c.Programs {
			if s.Name == p.Program.Name {
				running := c.ProgramID != 0 && s.Linkage != "" && s.State == ""
				l := live{running: running, maps: s.Maps, monitor: s.Monitor, agent: s.Agent}
				if running {
					l.id, l.link = c.ProgramID, c.LinkID
				}
				return l
			}
		}
	}
	return live{}
}
