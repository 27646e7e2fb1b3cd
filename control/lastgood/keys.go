package lastgood

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"github.com/weirmesh/weir/control/keys"
)

// KeysName is the ConfigMap with keys of token issuers; an installation with a revision puts it behind.
const KeysName = "istio-token-keys"

// RestoreKeys puts the sets that are kept into the folder of a keys.Fetcher, unless that has newer ones.
func RestoreKeys(ctx context.Context, o Options, dir string) error {
	data, err := o.read(ctx)
	if err != nil {
		return err
	}
	var all []*keys.Kept
	for _, name := range slices.Sorted(maps.Keys(data)) {
		k, err := keys.ParseKept(name, []byte(data[name]))
		if err != nil {
			o.Log.Warn("keys of tokens that were kept cannot be used", "key", name, "err", err)
			continue
		}
		all = append(all, k)
	}
	keys.Restore(dir, all, o.Log)
	return nil
}

// KeysSource says which sets are to be kept; a *control.Plane does.
type KeysSource interface {
	KeptKeys() (all []*keys.Kept, changed <-chan struct{})
}

// KeysKeeper writes them.
type KeysKeeper struct {
	o    Options
	from KeysSource
}

// NewKeysKeeper makes a KeysKeeper.
func NewKeysKeeper(o Options, from KeysSource) *KeysKeeper { return &KeysKeeper{o, from} }

// Run writes until ctx ends. While none is wanted the ConfigMap stays as it is: a replica that leads does not know at once whose are. What it
// never fetched stays as whoever had it wrote it.
func (k *KeysKeeper) Run(ctx context.Context) error {
	for {
		all, changed := k.from.KeptKeys()
		pause := sweepEvery
		if len(all) > 0 {
			left, err := k.write(ctx, all)
			switch {
			case err != nil && ctx.Err() == nil:
				k.o.Log.Warn("keys of tokens are not kept for new replicas", "next_attempt", retryAfter, "err", err)
				pause, changed = retryAfter, nil
			case len(left) > 0:
				k.o.Log.Warn("keys of tokens are too large to be kept: a new replica will not have them while their issuer is away", "uris", left)
			}
		}
		if !rest(ctx, pause, changed) {
			return nil
		}
	}
}

func (k *KeysKeeper) write(ctx context.Context, all []*keys.Kept) (left []string, err error) {
	texts, uris := map[string]string{}, map[string]string{}
	for _, x := range all {
		uris[x.FileName()] = x.URI
		if x.Keys == "" {
			continue
		}
		b, err := json.Marshal(x)
		if err != nil {
			return nil, err
		}
		texts[x.FileName()] = string(b)
	}
	names, err := k.o.write(ctx, func(old map[string]string) map[string]string {
		for name, text := range old {
			if uris[name] != "" && texts[name] == "" {
				texts[name] = text
			}
		}
		return texts
	})
	for _, n := range names {
		left = append(left, uris[n])
	}
	return left, err
}
