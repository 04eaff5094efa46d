"""A small software rasteriser: z-buffer of triangle identities first, shading of what is visible second.

Screen coordinates follow the package: pixel centres at whole numbers, x to the right, y downwards. Depth is the
distance along the viewing axis in inter-ocular distances. The supersampled buffer has twice the picture's side.
"""

import numpy as np
from numba import njit

SUPERSAMPLING = 2


@njit(cache=True)
def rasterise(screen, triangles, one_sided, side, scale, face_ids, depth, bary):
    """Fill `face_ids` (int32, -1 is background), `depth` and `bary` (n, n, 2) for a buffer of side `side`.

    screen: (N, 3) x, y in picture pixels and distance from the camera; a buffer pixel (i, j) sits at picture coordinate
    ((j + 0.5) / scale - 0.5, (i + 0.5) / scale - 0.5). The first `one_sided` triangles are dropped when
    they turn their back; the others are thin shells, seen from both sides.
    """
    face_ids[:] = -1
    depth[:] = 1e9
    offset = 0.5 * scale - 0.5
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay = screen[a, 0] * scale + offset, screen[a, 1] * scale + offset
        bx, by = screen[b, 0] * scale + offset, screen[b, 1] * scale + offset
        cx, cy = screen[c, 0] * scale + offset, screen[c, 1] * scale + offset
        area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
        if abs(area) < 1e-9 or (t < one_sided and area > 0):
            continue
        x0 = max(int(np.ceil(min(ax, bx, cx))), 0)
        x1 = min(int(np.floor(max(ax, bx, cx))), side - 1)
        y0 = max(int(np.ceil(min(ay, by, cy))), 0)
        y1 = min(int(np.floor(max(ay, by, cy))), side - 1)
        if x0 > x1 or y0 > y1:
            continue
        za, zb, zc = screen[a, 2], screen[b, 2], screen[c, 2]
        inverse = 1.0 / area
        step_b, step_c = (cy - ay) * inverse, (ay - by) * inverse
        for y in range(y0, y1 + 1):
            row_b, row_c = (ax - cx) * (y - ay) * inverse, (bx - ax) * (y - ay) * inverse
            for x in range(x0, x1 + 1):
                wb = row_b + (x - ax) * step_b
                wc = row_c + (x - ax) * step_c
                if wb >= 0 and wc >= 0 and wb + wc <= 1:
                    z = za + wb * (zb - za) + wc * (zc - za)
                    if z < depth[y, x]:
                        depth[y, x] = z
                        face_ids[y, x] = t
                        bary[y, x, 0] = wb
                        bary[y, x, 1] = wc


@njit(cache=True)
def move(points, fields, values, jaw, drop, follow, rotation, pivot, shift, out):
    """World points: displacement `fields` (E, N0, 3) weighted by `values`, jaw, the head's turn about `pivot`, `shift`.

    Only the first N0 points have fields; `follow` (N,) says how far each point joins in the turn, `jaw` (N,) in `drop`.
    """
    q = np.empty(3)
    for i in range(points.shape[0]):
        for c in range(3):
            q[c] = points[i, c] + jaw[i] * drop[c] - pivot[c]
        if i < fields.shape[1]:
            for e in range(fields.shape[0]):
                for c in range(3):
                    q[c] += values[e] * fields[e, i, c]
        f = follow[i]
        for c in range(3):
            turned = rotation[c, 0] * q[0] + rotation[c, 1] * q[1] + rotation[c, 2] * q[2]
            out[i, c] = q[c] + f * (turned - q[c]) + pivot[c] + shift[c]


@njit(cache=True)
def vertex_normals(points, triangles, out):
    """Area-weighted unit normals (N, 3) of a triangle mesh, written to `out`."""
    out[:] = 0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = points[b, 0] - points[a, 0], points[b, 1] - points[a, 1], points[b, 2] - points[a, 2]
        vx, vy, vz = points[c, 0] - points[a, 0], points[c, 1] - points[a, 1], points[c, 2] - points[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for k in (a, b, c):
            out[k, 0] += nx
            out[k, 1] += ny
            out[k, 2] += nz
    for i in range(out.shape[0]):
        norm = np.sqrt(out[i, 0] ** 2 + out[i, 1] ** 2 + out[i, 2] ** 2) + 1e-12
        out[i, 0] /= norm
        out[i, 1] /= norm
        out[i, 2] /= norm


@njit(cache=True)
def shade(face_ids, bary, triangles, normals, uv, colours, gloss, atlas, background, key, lights, picture):
    """Light what `rasterise` found and average the supersamples into `picture` (S, S, 3), gamma-encoded 0-255 floats.

    uv: (N, 2) atlas pixel coordinates (x, y); colours: (N, 3) linear multipliers; gloss: (N,) specular strength;
    lights: (key strength, ambient, warmth). Diffuse light wraps round the edge, red furthest, as it does in skin.
    """
    size = picture.shape[0]
    s = face_ids.shape[0] // size
    height, width = atlas.shape[0], atlas.shape[1]
    hx, hy, hz = key[0], key[1], key[2] + 1.0
    hn = np.sqrt(hx * hx + hy * hy + hz * hz)
    hx, hy, hz = hx / hn, hy / hn, hz / hn
    for y in range(size):
        for x in range(size):
            red, green, blue = 0.0, 0.0, 0.0
            for dy in range(s):
                for dx in range(s):
                    i, j = y * s + dy, x * s + dx
                    t = face_ids[i, j]
                    if t < 0:
                        red += background[y, x, 0]
                        green += background[y, x, 1]
                        blue += background[y, x, 2]
                        continue
                    a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
                    wb, wc = bary[i, j, 0], bary[i, j, 1]
                    wa = 1.0 - wb - wc
                    nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
                    ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
                    nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
                    if nz < 0:
                        nx, ny, nz = -nx, -ny, -nz
                    norm = 1.0 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-9)
                    nx, ny, nz = nx * norm, ny * norm, nz * norm
                    u = wa * uv[a, 0] + wb * uv[b, 0] + wc * uv[c, 0]
                    v = wa * uv[a, 1] + wb * uv[b, 1] + wc * uv[c, 1]
                    u0, v0 = min(int(u), width - 2), min(int(v), height - 2)
                    fu, fv = u - u0, v - v0
                    k00, k01, k10, k11 = (1 - fu) * (1 - fv), fu * (1 - fv), (1 - fu) * fv, fu * fv
                    lambert = nx * key[0] + ny * key[1] + nz * key[2]
                    ambient = lights[1] * (0.72 + 0.28 * ny + 0.12 * nz)
                    wide = max((lambert + 0.30) / 1.30, 0.0)
                    narrow = max((lambert + 0.12) / 1.12, 0.0)
                    h = max(nx * hx + ny * hy + nz * hz, 0.0)
                    h2 = h * h
                    h8 = h2 * h2 * h2 * h2
                    shine = (wa * gloss[a] + wb * gloss[b] + wc * gloss[c]) * h8 * h8 * h2 * lights[0]
                    shine = min(shine, 1.0)
                    tr = wa * colours[a, 0] + wb * colours[b, 0] + wc * colours[c, 0]
                    tg = wa * colours[a, 1] + wb * colours[b, 1] + wc * colours[c, 1]
                    tb = wa * colours[a, 2] + wb * colours[b, 2] + wc * colours[c, 2]
                    p00, p01, p10, p11 = atlas[v0, u0], atlas[v0, u0 + 1], atlas[v0 + 1, u0], atlas[v0 + 1, u0 + 1]
                    tr *= k00 * p00[0] + k01 * p01[0] + k10 * p10[0] + k11 * p11[0]
                    tg *= k00 * p00[1] + k01 * p01[1] + k10 * p10[1] + k11 * p11[1]
                    tb *= k00 * p00[2] + k01 * p01[2] + k10 * p10[2] + k11 * p11[2]
                    red += min(tr * (ambient + lights[0] * wide * (1 + lights[2])) + shine, 1.0)
                    green += min(tg * (ambient + lights[0] * narrow) + shine, 1.0)
                    blue += min(tb * (ambient + lights[0] * narrow * (1 - lights[2])) + shine, 1.0)
            picture[y, x, 0] = 255.0 * np.sqrt(red / (s * s))
            picture[y, x, 1] = 255.0 * np.sqrt(green / (s * s))
            picture[y, x, 2] = 255.0 * np.sqrt(blue / (s * s))
