/* Number formats: widening is exact for every 16-bit pattern, narrowing rounds to nearest even everywhere that matters
 * (subnormals, overflow, halfway cases), and NaN has one pattern per type. */
#include "kernel_harness.h"

#include "common/number_format.h"

static uint32_t bits_of(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static float from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static void test_widening_all_patterns(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float b = bf16_to_f32((uint16_t)h), f = f16_to_f32((uint16_t)h);
        double rb = ref_decode(h, 7, 8), rf = ref_decode(h, 10, 5);
        assert_true(isnan(rb) ? isnan(b) : bits_of(b) == bits_of((float)rb));
        assert_true(isnan(rf) ? isnan(f) : bits_of(f) == bits_of((float)rf));
        /* and back: the same pattern, or the canonical NaN */
        assert_int_equal(f32_to_bf16(b), isnan(rb) ? 0x7fc0 : h);
        assert_int_equal(f32_to_f16(f), isnan(rf) ? 0x7e00 : h);
    }
}

static void check_narrowing(uint32_t u)
{
    float x = from_bits(u);
    uint32_t bf16 = ref_encode(ref_round((double)x, 7, -126, BF16_LARGEST), 7, 8);
    uint32_t f16 = ref_encode(ref_round((double)x, 10, -14, F16_LARGEST), 10, 5);
    if (f32_to_bf16(x) != bf16)
        fail_msg("f32 %08x to bf16: %04x, expected %04x", u, f32_to_bf16(x), bf16);
    if (f32_to_f16(x) != f16)
        fail_msg("f32 %08x to f16: %04x, expected %04x", u, f32_to_f16(x), f16);
}

/* Around every value of either 16-bit type and around the point halfway to the next: one fp32 ulp to both sides. */
static void test_narrowing_around_every_value(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++)
        for (int around = -1; around <= 1; around++) {
            uint32_t half = bits_of((float)ref_decode(h, 10, 5));
            check_narrowing((h << 16) + (uint32_t)around);
            check_narrowing((h << 16) + 0x8000u + (uint32_t)around);
            check_narrowing(half + (uint32_t)around);
            check_narrowing(half + 0x1000u + (uint32_t)around);
        }
}

/* f16 subnormals have halfway points at every scale below 2^-14: all of them, and a walk over all exponents. */
static void test_narrowing_small_and_random(void **state)
{
    uint64_t seed = 3;
    (void)state;
    for (uint32_t units = 0; units < 4096; units++) /* multiples of 2^-26 */
        for (int around = -1; around <= 1; around++)
            check_narrowing(bits_of(ldexpf((float)units, -26)) + (uint32_t)around);
    for (int i = 0; i < 2000000; i++)
        check_narrowing((uint32_t)random_u64(&seed));
}

static void test_overflow_by_hand(void **state)
{
    (void)state;
    assert_int_equal(f32_to_f16(65504.0f), 0x7bff);
    assert_int_equal(f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(f32_to_f16(-65520.0f), 0xfc00);
    assert_int_equal(f32_to_f16(INFINITY), 0x7c00);
    assert_int_equal(f32_to_f16(0x1p-24f), 0x0001);
    assert_int_equal(f32_to_f16(0x1p-25f), 0x0000);         /* halfway to zero: even */
    assert_int_equal(f32_to_f16(0x1.000002p-25f), 0x0001);  /* just above           */
    assert_int_equal(f32_to_f16(-0x1p-30f), 0x8000);        /* the sign stays       */
    assert_int_equal(f32_to_bf16(0x1.fffffep127f), 0x7f80); /* FLT_MAX rounds up    */
    assert_int_equal(f32_to_bf16(0x1.fep127f), 0x7f7f);
    assert_int_equal(f32_to_bf16(-INFINITY), 0xff80);
    assert_int_equal(f32_to_bf16(1.00390625f), 0x3f80); /* 1 + 2^-8: halfway, even is down */
    assert_int_equal(f32_to_bf16(1.01171875f), 0x3f82); /* 1 + 3 * 2^-8: halfway, even is up */
}

static void test_nan_patterns(void **state)
{
    static const uint32_t nans[] = {0x7fc00000u, 0xffc00000u, 0x7f800001u, 0xff800001u, 0x7fffffffu, 0xffffffffu};
    (void)state;
    for (size_t i = 0; i < sizeof nans / sizeof nans[0]; i++) {
        float x = from_bits(nans[i]);
        double wide = f32_to_f64(x);
        uint64_t wide_bits;
        memcpy(&wide_bits, &wide, 8);
        assert_int_equal(f32_to_bf16(x), 0x7fc0);
        assert_int_equal(f32_to_f16(x), 0x7e00);
        assert_int_equal(bits_of(f32_canonical(x)), 0x7fc00000u);
        assert_true(wide_bits == 0x7ff8000000000000u);
        assert_false(f32_is_finite(x));
    }
    assert_int_equal(bits_of(f32_canonical(-0.0f)), 0x80000000u);
    assert_int_equal(bits_of(f32_canonical(-INFINITY)), 0xff800000u);
    assert_true(f32_is_finite(0x1.fffffep127f) && !f32_is_finite(INFINITY));
    assert_true(f64_is_finite(0x1p1000) && !f64_is_finite((double)INFINITY) && !f64_is_finite((double)NAN));
}

static void test_f64(void **state)
{
    uint64_t seed = 9;
    (void)state;
    for (int i = 0; i < 1000000; i++) {
        uint64_t u = random_u64(&seed);
        double x;
        if (i % 2 == 0) /* near fp32's range, with halfway mantissas often */
            u = (u & 0x800fffffffffffffu) | ((uint64_t)(1023 - 160 + i % 300) << 52);
        if (i % 4 == 0)
            u = (u & ~0x1fffffffull) | 0x10000000ull;
        memcpy(&x, &u, 8);
        if (isnan(x))
            continue;
        assert_int_equal(bits_of(f64_to_f32(x)), ref_encode(ref_round(x, 23, -126, F32_LARGEST), 23, 8));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widening_all_patterns),
        cmocka_unit_test(test_narrowing_around_every_value),
        cmocka_unit_test(test_narrowing_small_and_random),
        cmocka_unit_test(test_overflow_by_hand),
        cmocka_unit_test(test_nan_patterns),
        cmocka_unit_test(test_f64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
