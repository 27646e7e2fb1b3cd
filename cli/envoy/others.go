package envoy

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// each decodes the resources of a type that are there into *T, and visits them.
func each[T any](h *dump.Held, typeURL string, visit func(r *dump.HeldResource, m *T) error) error {
	for _, r := range h.Of(typeURL) {
		if r.Body == nil {
			continue // it was only ever refused
		}
		m := new(T)
		if err := json.Unmarshal(r.Body, m); err != nil {
			return fmt.Errorf("%s %s: %w", resource.Short(typeURL), r.Name, err)
		}
		if err := visit(&r, m); err != nil {
			return err
		}
	}
	return nil
}

// Routes are the route configurations of a dump; a row is a route. name is one of them,
// "" for all.
func Routes(h *dump.Held, name string) ([]json.RawMessage, Table, error) {
	raw, t := []json.RawMessage{}, Table{Head: []string{"NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"}}
	err := each(h, resource.RouteType, func(r *dump.HeldResource, c *routeConfig) error {
		if name != "" && c.Name != name {
			return nil
		}
		raw = append(raw, r.Body)
		for _, v := range c.Hosts {
			for i := range v.Routes {
				x := &v.Routes[i]
				object := x.Metadata.object()
				switch {
				case x.Direct != nil && object == "":
					object = strconv.Itoa(x.Direct.Status)
				case x.Redirect != nil && object == "":
					object = "redirect"
				}
				t.Rows = append(t.Rows, []string{c.Name, v.Name, domains(v.Domains), x.matched(), object})
			}
		}
		return nil
	})
	slices.SortStableFunc(t.Rows, func(a, b []string) int {
		pa, errA := strconv.Atoi(a[0])
		pb, errB := strconv.Atoi(b[0])
		if errA == nil && errB == nil {
			return cmp.Compare(pa, pb)
		}
		return strings.Compare(a[0], b[0])
	})
	return raw, t, err
}

// domains are a virtual host's, those with a port left out as they repeat the others.
func domains(all []string) string {
	short := slices.DeleteFunc(slices.Clone(all), func(d string) bool {
		i := strings.LastIndexByte(d, ':')
		return i > 0 && slices.Contains(all, d[:i])
	})
	const most = 3
	if len(short) > most {
		return fmt.Sprintf("%s + %d more...", strings.Join(short[:most-1], ", "), len(short)-most+1)
	}
	return strings.Join(short, ", ")
}

// ClusterFilter chooses clusters; a zero field is any.
type ClusterFilter struct {
	FQDN, Subset, Direction string
	Port                    uint32
}

func (f *ClusterFilter) admits(n ClusterName) bool {
	return (f.FQDN == "" || strings.Contains(n.Host, f.FQDN)) && word(n.Subset, f.Subset) && word(n.Direction, f.Direction) &&
		(f.Port == 0 || n.Port == strconv.FormatUint(uint64(f.Port), 10))
}

// Clusters are the clusters of a dump.
func Clusters(h *dump.Held, f ClusterFilter) ([]json.RawMessage, Table, error) {
	type cluster struct {
		Name   string `json:"name"`
		Type   string `json:"type"`
		Custom struct {
			Name string `json:"name"`
		} `json:"cluster_type"`
		Metadata metadata `json:"metadata"`
	}
	raw, t := []json.RawMessage{}, Table{Head: []string{"SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"}}
	err := each(h, resource.ClusterType, func(r *dump.HeldResource, c *cluster) error {
		n := ParseClusterName(c.Name)
		if !f.admits(n) {
			return nil
		}
		raw = append(raw, r.Body)
		kind := cmp.Or(c.Custom.Name, c.Type, "STATIC") // the first of the enum is not written
		t.Rows = append(t.Rows, []string{n.Host, n.Port, n.Subset, n.Direction, kind, c.Metadata.object()})
		return nil
	})
	sortRows(t.Rows)
	return raw, t, err
}

// EndpointFilter chooses endpoints; a zero field is any.
type EndpointFilter struct {
	Address, Cluster, Status string
	Port                     uint32
}

// ClusterStatuses is the answer of /clusters?format=json.
type ClusterStatuses struct {
	Statuses []json.RawMessage `json:"cluster_statuses"`
}

type host struct {
	Address address `json:"address"`
	Health  struct {
		EDS      string `json:"eds_health_status"`
		Outlier  bool   `json:"failed_outlier_check"`
		Active   bool   `json:"failed_active_health_check"`
		Degraded bool   `json:"failed_active_degraded_check"`
	} `json:"health_status"`
}

// Endpoints are the endpoints of clusters.
func Endpoints(all *ClusterStatuses, f EndpointFilter) ([]json.RawMessage, Table, error) {
	raw, t := []json.RawMessage{}, Table{Head: []string{"ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"}}
	for i, s := range all.Statuses {
		var c struct {
			Name  string `json:"name"`
			Hosts []host `json:"host_statuses"`
		}
		if err := json.Unmarshal(s, &c); err != nil {
			return nil, t, fmt.Errorf("cluster_statuses[%d]: %w", i, err)
		}
		found := false
		for _, h := range c.Hosts {
			status, outlier := cmp.Or(h.Health.EDS, "HEALTHY"), "OK"
			if h.Health.Active || h.Health.Degraded {
				status = "UNHEALTHY"
			}
			if h.Health.Outlier {
				outlier = "FAILED"
			}
			if f.add(&t, h.Address, status, outlier, c.Name) {
				found = true
			}
		}
		if found {
			raw = append(raw, s)
		}
	}
	sortRows(t.Rows)
	return raw, t, nil
}

func (f *EndpointFilter) add(t *Table, a address, status, outlier, cluster string) bool {
	at := a.Socket.Address
	if a.Pipe.Path != "" {
		at = a.Pipe.Path
	}
	if f.Address != "" && f.Address != at || !number(a.Socket.Port, f.Port) || !word(status, f.Status) || f.Cluster != "" && f.Cluster != cluster {
		return false
	}
	t.Rows = append(t.Rows, []string{a.String(), status, outlier, cluster})
	return true
}

// EndpointsOf are the endpoints of the load assignments in a dump.
func EndpointsOf(h *dump.Held, f EndpointFilter) ([]json.RawMessage, Table, error) {
	type assignment struct {
		Localities []struct {
			Endpoints []struct {
				Endpoint struct {
					Address address `json:"address"`
				} `json:"endpoint"`
				Health string `json:"health_status"`
			} `json:"lb_endpoints"`
		} `json:"endpoints"`
	}
	raw, t := []json.RawMessage{}, Table{Head: []string{"ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"}}
	err := each(h, resource.EndpointType, func(r *dump.HeldResource, a *assignment) error {
		found := false
		for _, l := range a.Localities {
			for _, e := range l.Endpoints {
				found = f.add(&t, e.Endpoint.Address, cmp.Or(e.Health, "HEALTHY"), "OK", r.Name) || found
			}
		}
		if found {
			raw = append(raw, r.Body)
		}
		return nil
	})
	sortRows(t.Rows)
	return raw, t, err
}

type source struct {
	Bytes  string `json:"inline_bytes"`
	String string `json:"inline_string"`
}

func (s *source) certificate() *x509.Certificate {
	text := []byte(s.String)
	if s.Bytes != "" {
		text, _ = base64.StdEncoding.DecodeString(s.Bytes) // what is no base64 is no certificate
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return c
}

// Secrets are the secrets of a dump, of chains and roots the first certificate.
func Secrets(h *dump.Held, now time.Time) ([]json.RawMessage, Table, error) {
	type secret struct {
		Certificate *struct {
			Chain source `json:"certificate_chain"`
		} `json:"tls_certificate"`
		Validation *struct {
			CA source `json:"trusted_ca"`
		} `json:"validation_context"`
	}
	raw, t := []json.RawMessage{}, Table{Head: []string{"RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"}}
	err := each(h, resource.SecretType, func(r *dump.HeldResource, s *secret) error {
		raw = append(raw, r.Body)
		status := "ACTIVE"
		if r.Waiting {
			status = "WARMING"
		}
		kind, from := "Secret", (*source)(nil)
		switch {
		case s.Certificate != nil:
			kind, from = "Cert Chain", &s.Certificate.Chain
		case s.Validation != nil:
			kind, from = "CA", &s.Validation.CA
		}
		row := []string{r.Name, kind, status, "false", "", "", ""}
		if from != nil {
			if c := from.certificate(); c != nil {
				row = []string{r.Name, kind, status, strconv.FormatBool(!now.Before(c.NotBefore) && now.Before(c.NotAfter)), c.SerialNumber.Text(16),
					c.NotAfter.UTC().Format(time.RFC3339), c.NotBefore.UTC().Format(time.RFC3339)}
			}
		}
		t.Rows = append(t.Rows, row)
		return nil
	})
	return raw, t, err
}
