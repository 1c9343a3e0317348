package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"l3af"
)

// RunChain runs packets through a copy of a hook's chain, or of the one that
// req.State has for it; nothing at the hook changes.
func (c *Client) RunChain(ctx context.Context, h l3af.Hook, req *l3af.RunRequest) (*l3af.ChainRun, error) {
	if req.Stream != nil {
		return c.streamChain(ctx, h, req)
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, fmt.Errorf("run: %w", err)
	}
	return call[*l3af.ChainRun](ctx, c, http.MethodPost, chainPath(h)+"/run", body, -1)
}

// ExplainChain says how the chain of a hook came about and what it costs: the
// one that s has for it, or with nil that of the state in force.
// [l3af.ErrNotFound]: that names no chain for the hook.
func (c *Client) ExplainChain(ctx context.Context, h l3af.Hook, s *l3af.State) (*l3af.ChainPlan, error) {
	if s != nil {
		body, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("explain: %w", err)
		}
		return call[*l3af.ChainPlan](ctx, c, http.MethodPost, chainPath(h)+"/explain", body, -1)
	}
	return call[*l3af.ChainPlan](ctx, c, http.MethodGet, chainPath(h)+"/explain", nil, -1)
}

// DumpChain gives the code of a hook's chain, with jited that which the CPU
// runs as well.
func (c *Client) DumpChain(ctx context.Context, h l3af.Hook, jited bool) (*l3af.ChainCode, error) {
	path := chainPath(h) + "/dump"
	if jited {
		path += "?jited=true"
	}
	return call[*l3af.ChainCode](ctx, c, http.MethodGet, path, nil, -1)
}

// chainPath is where the API has a hook's chain.
func chainPath(h l3af.Hook) string {
	place := h.Interface
	if h.Netns != "" {
		place = h.Netns + ":" + place
	}
	return "/v1/chains/" + url.PathEscape(place) + "/" + url.PathEscape(string(h.Kind))
}
