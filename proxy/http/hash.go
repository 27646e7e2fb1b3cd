package http

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/weirmesh/weir/proxy/cluster"
)

// hash is what the request hashes to by keys; random if it has nothing to hash. A client without a cookie that it
// is to have gets one by the response.
func (x *Exchange) hash(keys []cluster.HashKey, random uint64) uint64 {
	sum, found := uint64(0), false
	for i := range keys {
		h, ok := x.hashOf(&keys[i], random)
		if !ok {
			continue
		}
		sum, found = cluster.Also(sum, h), true
		if keys[i].Terminal {
			break
		}
	}
	if !found {
		return random
	}
	return sum
}

func (x *Exchange) hashOf(k *cluster.HashKey, random uint64) (uint64, bool) {
	var v []byte
	switch {
	case k.Source:
		return hashAddr(x.Remote.Addr()), x.Remote.IsValid()
	case k.Header == ":authority", k.Header == "host":
		v = x.Request.Authority
	case k.Header == ":path":
		v = x.Request.Path
	case k.Header != "":
		v = x.Request.Headers.GetName(k.Header)
	case k.Query != "":
		v = queryValue(x.Request.Path, k.Query)
	default:
		if v = x.Request.Headers.Cookie(k.Cookie); len(v) > 0 || !k.Generate {
			break
		}
		if x.cookie == nil { // another attempt goes by the same
			b := append(x.arena.Open(len(k.Cookie)+len(k.SetCookie)+20), k.Cookie...)
			b = append(b, '=', '"')
			b = strconv.AppendUint(b, random|1<<63, 16) // 16 digits
			x.cookie = x.arena.Close(append(append(b, '"'), k.SetCookie...))
		}
		at := len(k.Cookie) + 2
		v = x.cookie[at : at+16]
	}
	if v == nil {
		return 0, false
	}
	return cluster.Hash(v), true
}

// hashAddr is the hash of a client's address.
func hashAddr(a netip.Addr) uint64 {
	b := a.Unmap().As16()
	return cluster.Hash(b[:])
}

// queryValue is the first value of a parameter in a path, as it is written there; nil: there is none.
func queryValue(path []byte, name string) []byte {
	_, rest, _ := bytes.Cut(path, questionMark)
	for len(rest) > 0 {
		var pair []byte
		pair, rest, _ = bytes.Cut(rest, ampersand)
		if len(pair) >= len(name) && string(pair[:len(name)]) == name {
			switch {
			case len(pair) == len(name):
				return pair[len(name):]
			case pair[len(name)] == '=':
				return pair[len(name)+1:]
			}
		}
	}
	return nil
}

var questionMark, ampersand = []byte{'?'}, []byte{'&'}
