package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"l3af"
	"l3af/internal/gate"
)

// Metrics count what the node does. Use [NewMetrics].
type Metrics struct {
	registry *prometheus.Registry
	duration prometheus.Histogram
	failures prometheus.Counter
	steps    prometheus.Counter
}

// NewMetrics makes the metrics of one daemon of the given version.
func NewMetrics(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "l3af_reconcile_duration_seconds",
			Help:    "How long it took to make the machine match its state.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 12), // to 24 s
		}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "l3af_reconcile_failures_total",
			Help: "Hooks and probes that did not become as wanted, once for each attempt.",
		}),
		steps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "l3af_reconcile_steps_total",
			Help: "Changes that were made to the machine.",
		}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "l3af_build_info", Help: "Always 1; version is that of l3afd.",
		ConstLabels: prometheus.Labels{"version": strings.ToValidUTF8(version, "?")},
	})
	build.Set(1)
	m.registry.MustRegister(m.duration, m.failures, m.steps, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Observe counts one reconcile.
func (m *Metrics) Observe(duration time.Duration, steps, failures int) {
	m.duration.Observe(duration.Seconds())
	m.steps.Add(float64(max(steps, 0)))
	m.failures.Add(float64(max(failures, 0)))
}

// Certificates has the ends of TLS certificates told.
func (m *Metrics) Certificates(of func() []gate.Certificate) {
	m.registry.MustRegister(certificates(of))
}

// certificates tells when the certificates that it gives end.
type certificates func() []gate.Certificate

var certificateDesc = prometheus.NewDesc("l3af_certificate_expiry_timestamp_seconds",
	"When a certificate ends, of this host (role server) or of those that vouch for clients (client-ca).", []string{"role", "subject"}, nil)

func (certificates) Describe(ch chan<- *prometheus.Desc) { ch <- certificateDesc }

func (c certificates) Collect(ch chan<- prometheus.Metric) {
	first := map[[2]string]float64{} // of several with one name
	for _, one := range c() {
		key, until := [2]string{one.Role, strings.ToValidUTF8(one.Subject, "?")}, float64(one.Until.Unix())
		if known, ok := first[key]; !ok || until < known {
			first[key] = until
		}
	}
	for key, until := range first {
		ch <- prometheus.MustNewConstMetric(certificateDesc, prometheus.GaugeValue, until, key[0], key[1])
	}
}

func (m *Metrics) handler(node Node, log *slog.Logger, host string) (http.Handler, *configsMetrics) {
	status := prometheus.NewRegistry()
	status.MustRegister(&collector{node, log})
	upstream := newConfigsMetrics(node, host, status)
	return promhttp.HandlerFor(prometheus.Gatherers{m.registry, status}, promhttp.HandlerOpts{
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelError),
		ErrorHandling: promhttp.ContinueOnError,
	}), upstream
}

var (
	hookLabels   = []string{"interface", "netns", "hook"}
	runsDesc     = prometheus.NewDesc("l3af_program_runs_total", "How often a program of a chain ran.", append(hookLabels[:3:3], "program"), nil)
	verdictsDesc = prometheus.NewDesc("l3af_program_verdicts_total", "The return codes of a program of a chain, by name.", append(hookLabels[:3:3], "program", "verdict"), nil)
	stateDesc    = prometheus.NewDesc("l3af_chain_state", "1 for the state the chain is in, 0 for the others.", append(hookLabels[:3:3], "state"), nil)
	infoDesc     = prometheus.NewDesc("l3af_chain_info", "Always 1; id and mode of the chain that runs.", append(hookLabels[:3:3], "id", "mode"), nil)
	probeDesc    = prometheus.NewDesc("l3af_probe_state", "1 for the state the probe is in, 0 for the others.", []string{"probe", "state"}, nil)
	revisionDesc = prometheus.NewDesc("l3af_revision", "The revision in force, 0 before the first.", nil, nil)
	monitorDesc  = prometheus.NewDesc("l3af_monitor", "What the document's monitor makes of an entry of a program's map.", append(hookLabels[:3:3], "program", "map", "key", "aggregator"), nil)
	probeMonitor = prometheus.NewDesc("l3af_probe_monitor", "What the document's monitor makes of an entry of a probe's map.", []string{"probe", "map", "key", "aggregator"}, nil)
	errorsDesc   = prometheus.NewDesc("l3af_errors", "Troubles of the node itself, as status tells them.", nil, nil)
)

// collector reads the node's status when it is scraped.
type collector struct {
	node Node
	log  *slog.Logger
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{runsDesc, verdictsDesc, stateDesc, infoDesc, probeDesc, revisionDesc, monitorDesc, probeMonitor, errorsDesc} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := c.node.Status(ctx)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(revisionDesc, fmt.Errorf("status: %w", err))
		return
	}
	// One series given twice would spoil the whole scrape.
	seen := make(map[string]bool)
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		for i := range labels {
			labels[i] = strings.ToValidUTF8(labels[i], "?")
		}
		if key := d.String() + "\xff" + strings.Join(labels, "\xff"); !seen[key] {
			seen[key] = true
			ch <- prometheus.MustNewConstMetric(d, kind, value, labels...)
		}
	}
	states := func(d *prometheus.Desc, is string, labels ...string) {
		for _, s := range []string{l3af.Running, l3af.Waiting, l3af.Failed, l3af.Disabled} {
			value := 0.0
			if s == is {
				value = 1
			}
			emit(d, prometheus.GaugeValue, value, append(labels[:len(labels):len(labels)], s)...)
		}
	}
	emit(revisionDesc, prometheus.GaugeValue, float64(st.Revision))
	emit(errorsDesc, prometheus.GaugeValue, float64(len(st.Errors)))
	for _, ch := range st.Chains {
		hook := []string{ch.Interface, ch.Netns, string(ch.Hook)}
		with := func(more ...string) []string { return append(hook[:3:3], more...) }
		states(stateDesc, ch.State, hook...)
		if ch.ID != "" {
			emit(infoDesc, prometheus.GaugeValue, 1, with(ch.ID, string(ch.Mode))...)
		}
		for _, p := range ch.Programs {
			emit(runsDesc, prometheus.CounterValue, float64(p.Packets), with(p.Name)...)
			for v, n := range p.Verdicts {
				emit(verdictsDesc, prometheus.CounterValue, float64(n), with(p.Name, string(v))...)
			}
			for _, m := range p.Monitor {
				emit(monitorDesc, prometheus.GaugeValue, m.Value, with(p.Name, m.Map, m.Key, string(m.Aggregator))...)
			}
		}
	}
	for _, p := range st.Probes {
		states(probeDesc, p.State, p.Name)
		for _, m := range p.Monitor {
			emit(probeMonitor, prometheus.GaugeValue, m.Value, p.Name, m.Map, m.Key, string(m.Aggregator))
		}
	}
}
