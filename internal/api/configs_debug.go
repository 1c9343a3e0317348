package api

import (
	"net/http"
	"path"
	"strings"

	"l3af/internal/configs"
)

// Debug is what runs of one program, under the names of upstream's debug
// listener. A chain is one program: all of its programs have its ProgID, and
// no maps that lead from one to the next.
type Debug struct {
	Program         configs.Program         `json:"Program"`
	FilePath        string                  `json:"FilePath" description:"The package."`
	RestartCount    int                     `json:"RestartCount" description:"How often the agent was started again."`
	PrevMapNamePath string                  `json:"PrevMapNamePath" description:"Always empty."`
	MapNamePath     string                  `json:"MapNamePath" description:"Always empty."`
	ProgID          uint32                  `json:"ProgID" description:"The kernel's; 0 when it does not run."`
	BpfMaps         map[string]DebugMap     `json:"BpfMaps"`
	MetricsBpfMaps  map[string]DebugMetrics `json:"MetricsBpfMaps"`
	ProgMapID       uint32                  `json:"ProgMapID" description:"Always 0."`
	PrevProgMapID   uint32                  `json:"PrevProgMapID" description:"Always 0."`
	HostConfig      map[string]string       `json:"HostConfig" description:"Always empty."`
	ProbeLinks      []uint32                `json:"ProbeLinks" description:"Links of probes, by their kernel ids."`
}

// DebugMap is a map of a program.
type DebugMap struct {
	Name string `json:"Name"`
	Path string `json:"Path" description:"Where agents find it; empty for data sections."`
}

// DebugMetrics is a monitored entry.
type DebugMetrics struct {
	Name       string  `json:"Name"`
	Key        string  `json:"Key"`
	Aggregator string  `json:"Aggregator"`
	LastValue  float64 `json:"LastValue"`
}

func (s *Server) getBPFs(w http.ResponseWriter, r *http.Request) error {
	now, err := s.stateNow(r.Context())
	if err != nil {
		return err
	}
	iface := r.PathValue("iface")
	if err := s.knows(now, iface); err != nil {
		return err
	}
	st, err := s.node.Status(r.Context())
	if err != nil {
		return err
	}
	list := []Debug{}
	for _, p := range configs.Everything(now) {
		if p.Sent.Name == "" || p.Iface != iface && p.Iface != "" {
			continue
		}
		l := liveOf(st, &p)
		d := Debug{Program: p.Sent, ProgID: l.id, BpfMaps: map[string]DebugMap{}, MetricsBpfMaps: map[string]DebugMetrics{}, HostConfig: map[string]string{}, ProbeLinks: []uint32{}}
		pins := ""
		if p.Program != nil {
			d.FilePath, pins = p.Program.Package, p.Program.PinPath
		} else {
			d.FilePath = p.Probe.Package
			if l.link != 0 {
				d.ProbeLinks = append(d.ProbeLinks, l.link)
			}
		}
		if l.agent != nil {
			d.RestartCount = l.agent.Restarts
		}
		for _, name := range l.maps {
			m := DebugMap{Name: name}
			if pins != "" && !strings.HasPrefix(name, ".") { // bpffs takes no name with a dot
				m.Path = path.Join(pins, name)
			}
			d.BpfMaps[name] = m
		}
		for _, m := range l.monitor {
			d.MetricsBpfMaps[m.Map+m.Key+string(m.Aggregator)] = DebugMetrics{m.Map, m.Key, string(m.Aggregator), m.Value}
		}
		list = append(list, d)
	}
	return s.respond(w, http.StatusOK, "application/json", list)
}
